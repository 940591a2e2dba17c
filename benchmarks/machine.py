"""What calls take on this machine: time, memory, and the rate that no network exceeds."""

import ctypes
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CEILING_SIDE, CEILING_REPEATS = 2048, 7


def measure_ceiling(dtype: torch.dtype) -> float:
    """Return the rate of a large square matrix product, operations a second (two for a multiply-accumulate).

    Args:
        dtype: of the matrices.
    """
    a, b = (torch.randn(CEILING_SIDE, CEILING_SIDE).to(dtype) for _ in range(2))
    seconds = [time_call(lambda: a @ b) for _ in range(CEILING_REPEATS)]
    return 2 * CEILING_SIDE**3 / statistics.median(seconds[1:])


def time_call(call: Callable[[], Any]) -> float:
    """Time one call, seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_memory(call: Callable[[], Any]) -> int | None:
    """Return the most memory that a call holds beyond what was held before it, bytes; None where Linux does not say.

    Args:
        call: run once, after freed memory went back to the system.
    """
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # the peak begins anew at what is held now
    before = _read_kibibytes(status, "VmRSS")
    call()
    return 1024 * (_read_kibibytes(status, "VmHWM") - before)


def _read_kibibytes(status: Path, entry: str) -> int:
    return int(re.search(rf"^{entry}:\s+(\d+) kB$", status.read_text(), re.M).group(1))
