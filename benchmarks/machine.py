"""What calls take on this machine: time, memory, and the rate that no network exceeds."""

import ctypes
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CEILING_SIDES, CEILING_REPEATS = {"cpu": 2048, "cuda": 8192}, 7


def measure_ceiling(dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the rate of a large square matrix product, operations a second (two for a multiply-accumulate).

    Args:
        dtype: of the matrices.
        device: that multiplies them, "cpu" or "cuda".
    """
    side = CEILING_SIDES[device]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = [time_call(lambda: a @ b, device) for _ in range(CEILING_REPEATS)]
    return 2 * side**3 / statistics.median(seconds[1:])


def time_call(call: Callable[[], Any], device: str = "cpu") -> float:
    """Time one call until its results are there, seconds.

    Args:
        call: what to time.
        device: that computes, "cpu" or "cuda".
    """
    _finish(device)
    start = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: str) -> None:
    """Wait for what a card was told to do; a processor does it at once."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_memory(call: Callable[[], Any], device: str = "cpu") -> int | None:
    """Return the most memory that a call holds beyond what was held before it, bytes; None where Linux does not say.

    Args:
        call: run once, after freed memory went back to the system.
        device: whose memory, "cpu" or "cuda".
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
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
