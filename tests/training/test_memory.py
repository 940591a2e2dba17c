import platform
import subprocess
import sys

import pytest

from training import memory

FAULTS = """
import resource, sys
import torch
from training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(50):  # the heap first grows to its size
    torch.ones(2**24).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {}
    for choice in ("keep", "leave"):
        run = subprocess.run([sys.executable, "-c", FAULTS, choice], check=True, capture_output=True, text=True)
        faults[choice] = int(run.stdout)
    assert faults["keep"] < 0.1 * faults["leave"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_blocks_come_from_the_heap_after_the_allocator_is_set():
    code = (
        "import numpy\n"
        "from training import memory\n"
        "def is_on_heap():\n"
        "    block = numpy.ones(2**26, numpy.uint8)\n"
        "    heap = next(line for line in open('/proc/self/maps') if '[heap]' in line).split()[0].split('-')\n"
        "    return int(heap[0], 16) <= block.ctypes.data < int(heap[1], 16)\n"
        "print(is_on_heap())\n"
        "memory.keep_freed_memory()\n"
        "print(is_on_heap())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("opened the C library"))
    memory.keep_freed_memory()
