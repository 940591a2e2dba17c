"""How the process keeps its memory, and how much it took."""

import ctypes
import platform
import resource
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and values of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory in place of returning it to the system; other C libraries are left alone.

    Large tensors are otherwise mapped and page-faulted anew at every step, which doubles the tiny model's time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has held, in bytes: the device's on CUDA, the process's on a CPU.

    Args:
        device: where the model runs.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes
