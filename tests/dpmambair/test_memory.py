import platform
import subprocess
import sys

import pytest
import torch

from dpmambair import memory

# Prints page faults of large tensors, and whether a large array comes from the heap: as glibc does it, then as we ask.
PROBE = """
import resource
import numpy, torch
from dpmambair.memory import keep_freed_memory

def fill(times):
    for _ in range(times):
        torch.ones(2**24).sum()

def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill(10)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def is_on_heap():
    block = numpy.ones(2**26, numpy.uint8)
    heap = next(line for line in open('/proc/self/maps') if '[heap]' in line).split()[0].split('-')
    return int(heap[0], 16) <= block.ctypes.data < int(heap[1], 16)

# The fewest of three counts: the heap may grow once more while it is counted, and a full system takes pages.
print(min(count_faults() for _ in range(3)), int(is_on_heap()))
keep_freed_memory()
fill(10)  # the heap first grows to its size
print(min(count_faults() for _ in range(3)), int(is_on_heap()))
"""


RETURNED = """
import re
import torch
from dpmambair.memory import keep_freed_memory, return_freed_memory

def measure_held(numbers):
    held = lambda: int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
    before = held()
    torch.ones(numbers)
    return (held() - before) // 1024

keep_freed_memory(returns_large=True)
torch.ones(10)
print(measure_held(2**25), measure_held(2**22))
return_freed_memory()
print(measure_held(2**22))
"""


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_blocks_are_returned_where_that_was_asked_for_and_the_others_on_demand():
    run = subprocess.run([sys.executable, "-c", RETURNED], check=True, capture_output=True, text=True)
    large, small, again = map(int, run.stdout.split())
    assert large < 8
    assert small == pytest.approx(16, abs=3)
    assert again == pytest.approx(16, abs=3)  # returned in between, or it would not grow


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_stays_on_the_heap_and_is_used_again_without_page_faults():
    run = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    (left, was_on_heap), (kept, is_on_heap) = (map(int, line.split()) for line in run.stdout.splitlines())
    assert (was_on_heap, is_on_heap) == (False, True)
    assert kept < 0.1 * left


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("opened the C library"))
    memory.keep_freed_memory()


GROWTH = """
import numpy, torch
from dpmambair.memory import limit_growth

limit_growth(2**28)
kept = numpy.ones(2**26, numpy.uint8)
for ask in (lambda: numpy.empty(2**28, numpy.uint8), lambda: bytearray(2**28), lambda: torch.empty(2**28)):
    try:
        ask()
        print("given")
    except (MemoryError, RuntimeError) as error:
        print("refused", "memory" in str(error) or isinstance(error, MemoryError))
"""


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process has reserved")
def test_more_memory_than_the_limit_is_refused_with_an_error():
    run = subprocess.run([sys.executable, "-c", GROWTH], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines() == ["refused True"] * 3


@pytest.mark.parametrize(
    ("error", "is_short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB."), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),  # none fits: no lack
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("shapes differ"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_what_means_that_memory_is_short(error, is_short):
    assert memory.is_short(error) == is_short


# Fills the address space that is left, in small pieces, while room is spared; then starts a thread, if it can.
SPARED = """
import mmap, re, resource, threading
from dpmambair.memory import SpareRoom

size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 2**27, size + 2**27))
spare = SpareRoom()

def fill():
    pieces = []
    try:
        with spare:
            while True:
                pieces.append(mmap.mmap(-1, 2**20))
    except OSError:
        threading.Thread(target=int).start()
        return len(pieces)

print(fill())
try:
    threading.stack_size(2**24)
    fill()
except RuntimeError as error:
    print(error)
with spare:
    pass
print(fill())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is known to need it")
def test_room_is_spared_for_what_follows_a_failure_until_something_succeeds():
    run = subprocess.run([sys.executable, "-c", SPARED], check=True, capture_output=True, text=True)
    first, refused, again = run.stdout.splitlines()
    assert refused == "can't start new thread"
    assert 32 < int(first) < 72
    assert 32 < int(again) < 72
