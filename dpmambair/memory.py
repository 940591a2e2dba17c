"""How the process keeps its memory, and how much it took."""

import ctypes
import mmap
import platform
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
# The most that glibc takes for a threshold: what strips work on is smaller, features of large pictures are larger.
LARGE_BLOCK = 2**25
# Room for the stacks of some threads, 8 MiB each, and for what oneDNN compiles for a picture's size.
SPARE = 2**26
# What a `RuntimeError` says where memory is short: torch's, oneDNN's, which names no reason, and Python's of a stack.
SHORT = re.compile(r"out of memory|can't allocate memory|could not create a primitive$|can't start new thread")


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


def is_short(error: BaseException) -> bool:
    """Tell whether an error means that there was too little memory.

    Args:
        error: what was raised.
    """
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(SHORT.search(str(error))))


class SpareRoom:
    """Address space that stays free while a picture takes all that there is, for the one after it; Linux alone.

    glibc gives little of that back to the system. What is asked from the system itself, as stacks and compiled code
    are, would then find no room, however small the next picture is.

    As a context it holds the space while a picture is restored, except after one that failed.
    """

    def __init__(self) -> None:
        self._held: mmap.mmap | None = None
        self._has_failed = False

    def __enter__(self) -> None:
        if self._has_failed:
            return_freed_memory()
        elif sys.platform == "linux":
            with suppress(OSError):  # memory is short already
                self._held = mmap.mmap(-1, SPARE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._held is not None:
            self._held.close()
        self._held, self._has_failed = None, kind is not None


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


def peak_memory(device: "torch.device") -> int:
    """Return the most memory that this process has held, in bytes: the device's on CUDA, the process's on a CPU.

    Args:
        device: where the model runs.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes
