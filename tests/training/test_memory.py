import platform
import subprocess
import sys

import pytest

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
