"""What the operators of our kernels share, on every device: their names and their derivatives."""

import inspect
import zlib
from collections.abc import Callable
from typing import Any

import torch


def operator_name(name: str) -> str:
    """Return `dpmambair::name` in the package and a name of its own in each of the Hub's copies of this file.

    Torch holds one operator of a name: a second copy of the code would pull it from under the first, which crashes.
    """
    package = __name__.rpartition(".")[0]
    copy = "" if package == "modeling_dpmambair" else f"_{zlib.crc32(package.encode()):08x}"
    return f"dpmambair{copy}::{name}"


def _refuse_forward_mode(*_: Any) -> None:
    raise ValueError(
        "`derivative` must be taken in reverse mode through the kernels, got forward mode; "
        "use torch.func.vjp or grad, or a float64 model inside scan_backend('loop')"
    )


def _refuse_gradient(*_: Any) -> None:
    raise ValueError(
        "`derivative` must be of first order through the kernels, got one of a kernel that has none; "
        "call a float64 model inside scan_backend('loop')"
    )


def _keep_nothing(ctx: Any, inputs: tuple, output: Any) -> None:
    pass


def differentiate(
    function: Callable[..., Any],
    keep: Callable[[Any, tuple, Any], None] = _keep_nothing,
    propagate: Callable[..., Any] = _refuse_gradient,
) -> Callable[..., Any]:
    """Return a function of kernels with its gradients, in `torch.func` too, and with a refusal of forward mode.

    The gradients that an operator is registered with serve compiled programs only: `torch.func.grad` does not take
    them, and forward mode passes by them and finds zeros.

    Args:
        function: takes tensors and numbers by position, returns tensors.
        keep: saves in a context what the backward needs of the inputs and the output; nothing if not given.
        propagate: maps the context and the gradients of the output to those of the inputs; an error if not given.
    """

    def forward(*inputs: Any) -> Any:
        return function(*inputs)

    # Torch asks for it at every call; to work it out would take longer than the kernel.
    forward.__signature__ = inspect.signature(forward)
    methods = {"forward": forward, "setup_context": keep, "backward": propagate, "jvp": _refuse_forward_mode}
    members = {name: staticmethod(method) for name, method in methods.items()}
    eager = type("DifferentiatedKernels", (torch.autograd.Function,), {**members, "generate_vmap_rule": True})

    def call(*inputs: Any) -> Any:
        return function(*inputs) if torch.compiler.is_compiling() else eager.apply(*inputs)

    return call
