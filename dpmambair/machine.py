"""What a results file says of its making: the machine, the command and the commit."""

import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


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


def describe_command(module: str | None = None) -> str:
    """Return the command line of this process; of paths from the root, which tell of one machine, only the names.

    Args:
        module: what `python -m` was told to run; None for a script.
    """
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv]
    return shlex.join(["python", *(["-m", module, *words[1:]] if module else words)])


def read_commit() -> str | None:
    """Return the commit of this code, with a plus if tracked files were changed since; None where git knows none."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(changes)
