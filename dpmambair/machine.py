"""What the machine is."""

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch


def describe_machine(device: str = "cpu", processes: int = 1) -> dict[str, Any]:
    """Name processor, cores, threads and torch for a results file.

    Args:
        device: kind of device that was measured.
        processes: how many shared the work.
    """
    information = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.M) if information.is_file() else None
    return {
        "cpu": named.group(1) if named else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "device": device,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
