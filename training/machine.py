"""What the machine is, and what it computes in."""

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


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 itself.

    Args:
        device: CUDA or CPU; of others nothing is known.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(features.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def is_bfloat16_faster(device: torch.device) -> bool:
    """Tell whether a device computes faster in bfloat16 than in float32.

    It does not where it emulates it, nor on Intel's processors without AMX: their matrix products run at half of
    float32's rate (`python -m benchmarks.forward` measures both ceilings).

    Args:
        device: CUDA or CPU; of others nothing is known.
    """
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    is_slow = "Intel" in features.get("cpu_name", "") and not features.get("amx_bf16", False)
    return has_bfloat16(device) and not is_slow
