"""What the processor's operators share: threads for serial numba kernels, their progress, flat arrays.

Numba's own threading layers abort when two threads call them at once (workqueue) or after a fork (OpenMP). The
kernels are serial instead, release the interpreter's lock, and run on torch's own threads: for some milliseconds after
each of torch's operators these wait in a busy loop, in which threads of ours would have to share their cores. Where
torch's threads are not GNU OpenMP's, and in a fork, which has lost them, a plain pool does the same more slowly.
"""

import ctypes
import functools
import os
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
        if is_ours and not self._bars:
            title = f"compiling {function.__name__} for this processor, once"
            self._bars[function.__name__] = logging.tqdm(desc=title, bar_format="{desc}: {elapsed}")

    def on_end(self, event: event.Event) -> None:
        """Close the line."""
        bar = self._bars.pop(event.data["dispatcher"].py_func.__name__, None)
        if bar is not None:  # an unbounded bar has no truth value
            bar.close()


event.register("numba:compile", CompilationProgress())


_Share = Callable[[int, int], None]
_IMPORTING_PROCESS = os.getpid()
_TEAM_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _torch_threads() -> ctypes.CDLL | None:
    """Return the GNU OpenMP runtime that this process has loaded, by the name under which torch loads it, or None."""
    try:
        runtime = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
        runtime.GOMP_parallel.argtypes = [_TEAM_FUNCTION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    except (AttributeError, OSError):  # no such mode or function, or no such runtime
        return None
    return runtime


def _share_with_torch(runtime: ctypes.CDLL, share: _Share, count: int) -> None:
    """Call `share(number, threads)` on at most `count` of torch's threads; raise what one of them raised."""
    errors = []

    def work(_: None) -> None:
        # An exception must not leave a function that C calls.
        try:
            share(runtime.omp_get_thread_num(), runtime.omp_get_num_threads())
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    runtime.GOMP_parallel(_TEAM_FUNCTION(work), None, count, 0)
    if errors:
        raise errors[0]


@functools.cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    """Return this process's threads; keyed by the process's number, so that a fork gets threads of its own."""
    return ThreadPoolExecutor(count, thread_name_prefix="selective-scan")


def _share_with_pool(share: _Share, count: int) -> None:
    """Call `share(number, count)` on `count` threads, this one among them."""
    pool = _pool(os.getpid(), torch.get_num_threads())
    others = [pool.submit(share, number, count) for number in range(1, count)]
    share(0, count)
    for other in others:
        other.result()


Scratch = Callable[[tuple], tuple]


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

    def share(number: int, threads: int) -> None:
        for task in tasks[number::threads]:
            kernel(*inputs, task, *outputs, *scratch(task))

    count = min(torch.get_num_threads(), len(tasks))
    runtime = _torch_threads() if os.getpid() == _IMPORTING_PROCESS else None
    if count <= 1:
        share(0, 1)
    elif runtime is None:
        _share_with_pool(share, count)
    else:
        _share_with_torch(runtime, share, count)


def flat(tensor: torch.Tensor) -> np.ndarray:
    """View a tensor whose last dimension is dense as flat numbers, bfloat16 as bit patterns."""
    bits = tensor.detach().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.detach()
    span = 1 + sum((size - 1) * stride for size, stride in zip(bits.shape, bits.stride(), strict=True))
    return bits.as_strided((span if bits.numel() else 0,), (1,)).numpy()
