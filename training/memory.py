"""How the process keeps its memory."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and values of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory in place of returning it to the system; other C libraries are left alone.

    Large tensors are otherwise mapped and page-faulted anew at every step, which doubles the tiny model's time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
