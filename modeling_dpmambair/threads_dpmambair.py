"""What the processor's operators share: names, threads for serial numba kernels, compilation progress, flat arrays.

Numba's own threading layers abort when two threads call them at once (workqueue) or after a fork (OpenMP); a plain
thread pool around kernels that release the interpreter's lock does neither.
"""

import functools
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

try:
    from numba.core import event
except ImportError as error:  # as in the kernels
    raise ImportError("the fast layers on the processor need numba: pip install numba") from error


class CompilationProgress(event.Listener):
    """Shows on stderr that a kernel is compiled and how long it took, because the first call would else only wait.

    A kernel found in numba's cache makes no such event.
    """

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def on_start(self, event: event.Event) -> None:
        """Open the line of a kernel; what is compiled into one, and functions of other packages, have none."""
        function, package = event.data["dispatcher"].py_func, __name__.rpartition(".")[0]
        is_ours = function.__module__.startswith(package) and function.__module__.endswith("kernels_dpmambair")
        if is_ours and not function.__name__.startswith("_"):
            title = f"compiling {function.__name__} for this processor, once"
            self._bars[function.__name__] = logging.tqdm(desc=title, bar_format="{desc}: {elapsed}")

    def on_end(self, event: event.Event) -> None:
        """Close the line."""
        bar = self._bars.pop(event.data["dispatcher"].py_func.__name__, None)
        if bar is not None:  # an unbounded bar has no truth value
            bar.close()


event.register("numba:compile", CompilationProgress())


def operator_name(name: str) -> str:
    """Return `dpmambair::name` in the package and a name of its own in each of the Hub's copies of this file.

    Torch holds one operator of a name: a second copy of the code would pull it from under the first, which crashes.
    """
    package = __name__.rpartition(".")[0]
    copy = "" if package == "modeling_dpmambair" else f"_{zlib.crc32(package.encode()):08x}"
    return f"dpmambair{copy}::{name}"


@functools.cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Return this process's threads; keyed by the process's number, so that a fork gets threads of its own."""
    return ThreadPoolExecutor(count, thread_name_prefix="selective-scan")


Scratch = Callable[[tuple], tuple]


def _run(kernel: Callable, tasks: Sequence[tuple], inputs: tuple, outputs: tuple, scratch: Scratch) -> None:
    for task in tasks:
        kernel(*inputs, task, *outputs, *scratch(task))


def run_tasks(
    kernel: Callable, tasks: Sequence[tuple], inputs: tuple, outputs: tuple, scratch: Scratch = lambda _: ()
) -> None:
    """Run a kernel over all tasks on as many threads as torch may use; which thread runs a task changes no result.

    Args:
        kernel: called with the inputs, a task, the outputs and the task's scratch.
        tasks: shares of the work.
        inputs: what all tasks read.
        outputs: what each writes its part of.
        scratch: allocates what a task works on; kernels do not allocate, because numba then counts references to all
            their arrays, which costs more than the arithmetic.
    """
    count = min(torch.get_num_threads(), len(tasks))
    pool = _threads(os.getpid(), torch.get_num_threads()) if count > 1 else None
    others = [pool.submit(_run, kernel, tasks[share::count], inputs, outputs, scratch) for share in range(1, count)]
    _run(kernel, tasks[::count], inputs, outputs, scratch)
    for other in others:
        other.result()


def flat(tensor: torch.Tensor) -> np.ndarray:
    """View a tensor whose last dimension is dense as flat numbers, bfloat16 as bit patterns."""
    bits = tensor.detach().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.detach()
    span = 1 + sum((size - 1) * stride for size, stride in zip(bits.shape, bits.stride(), strict=True))
    return bits.as_strided((span if bits.numel() else 0,), (1,)).numpy()
