"""mamba-ssm's kernel of the selective scan as the Hub has it: compiled, for many versions of torch and CUDA."""

import functools
from collections.abc import Callable

import torch
from huggingface_hub import constants

# What transformers' own Mamba models take. A version is a branch: its publisher may put new builds there.
HUB_KERNEL, HUB_KERNEL_VERSION = "kernels-community/mamba-ssm", 5


@functools.cache
def load_hub_kernel() -> Callable[..., torch.Tensor]:
    """Return the kernel's `selective_scan_fn` for this machine, from the cache of downloads or from the Hub.

    Its module is run, with the rights of the user.

    Raises:
        ImportError: `kernels` is not installed, or neither the Hub nor the cache has a kernel that loads here.
    """
    try:
        from kernels import get_kernel  # not above, because importing it takes long and almost nobody needs it
    except ImportError as error:
        raise ImportError("the scan backend 'kernels' needs kernels: pip install kernels einops") from error
    try:
        return get_kernel(HUB_KERNEL, version=HUB_KERNEL_VERSION).selective_scan_fn
    except Exception as error:  # downloaded code may raise anything
        needed = f"the scan backend 'kernels' needs {HUB_KERNEL}, version {HUB_KERNEL_VERSION}"
        raise ImportError(f"{needed}, got {_explain(error)}") from error


def _explain(error: Exception) -> str:
    other = "let another backend compute it"
    if isinstance(error, FileNotFoundError):
        return f"no build for torch {torch.__version__} on this machine; {other}"
    if constants.HF_HUB_OFFLINE and isinstance(error, ValueError):
        return f"none in the cache while HF_HUB_OFFLINE is set; unset it once, or {other}"
    problem = str(error).partition(". ")[0]  # what follows is advice to programmers
    return f"{type(error).__name__}: {problem}; {other}"
