"""How the process keeps its memory, and how much it took."""

import ctypes
import platform
import re
import resource
import sys
from pathlib import Path

import torch

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
# The most that glibc takes for a threshold: what strips work on is smaller, features of large pictures are larger.
LARGE_BLOCK = 2**25


def keep_freed_memory(returns_large: bool = False) -> None:
    """Let glibc reuse freed memory in place of returning it to the system; other C libraries are left alone.

    Large tensors are otherwise mapped and page-faulted anew at every step, which doubles the tiny model's time.

    Args:
        returns_large: whether blocks of 32 MiB and more are returned nonetheless, as suits large pictures: they are
            few, and what lies between them is soon in pieces that fit nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(*((M_MMAP_THRESHOLD, LARGE_BLOCK) if returns_large else (M_MMAP_MAX, 0)))


def return_freed_memory() -> None:
    """Give back to the system what glibc kept of freed memory; other C libraries are left alone.

    What one thread has freed no other is given.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def limit_growth(growth: int) -> None:
    """Let Linux refuse what this process asks for beyond so much more memory than it has now; elsewhere do nothing.

    Whoever asks then gets a `MemoryError`, or torch's, where the system would end the process for want of memory.

    Args:
        growth: bytes, in addition to what the process has reserved by now.
    """
    if sys.platform == "linux":
        reserved = 1024 * int(re.search(r"^VmData:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)[1])
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = reserved + growth if hard == resource.RLIM_INFINITY else min(reserved + growth, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has held, in bytes: the device's on CUDA, the process's on a CPU.

    Args:
        device: where the model runs.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes
