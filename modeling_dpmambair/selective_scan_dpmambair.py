"""The selective scan (Eqs. 3-5, 8-9 of arXiv:2504.17732v1): one public function, an implementation for each device.

| device | implementation |
|---|---|
| CPU | numba kernels with the prompts fused in |
| CUDA, ROCm | Triton kernels with the prompts fused in; without triton mamba-ssm's kernel |
| CUDA, only where it is asked for | mamba-ssm's kernel, compiled, from the Hub |
| any other, or where those are absent, float64, zero-order hold | chunks in plain torch, said once in a warning |
| none: exported programs | `selective_scan_export`, in torch's scan operator, which other runtimes have too |
| none: the tests' oracle | `selective_scan_loop`, step by step, in any dtype |

The environment variable `DPMAMBAIR_SCAN` (numba, triton, mamba_ssm, kernels, chunked, export, loop) and the context
manager `scan_backend` force one; "kernels" is the one from the Hub. Shape letters: B pictures, L steps, D channels, N
states.
"""

import contextlib
import contextvars
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .hub_kernel_dpmambair import load_hub_kernel
from .selective_scan_export_dpmambair import selective_scan_export

try:
    from .cpu_scan_dpmambair import LANES, prompted_scan_cpu, resume_scan_cpu
    from .cpu_scan_kernels_dpmambair import STATES
except ImportError:  # numba is missing
    prompted_scan_cpu = None
try:
    from .triton_scan_dpmambair import is_interpreted, prompted_scan_triton, resume_scan_triton
except ImportError:  # triton is missing
    prompted_scan_triton = None
try:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
except ImportError:
    selective_scan_fn = None

Backend = Literal["numba", "triton", "mamba_ssm", "kernels", "chunked", "export", "loop"]
Discretization = Literal["euler", "zoh"]
# Steps that the plain torch scan combines at once: its memory is B x 64 x D x N, its depth six products.
CHUNK_STEPS = 64
# Before the softplus: makes steps of about 1e-7, which neither decay the state nor leave float32.
ALMOST_NO_STEP = -16.0

_forced: contextvars.ContextVar[Backend | None] = contextvars.ContextVar("forced", default=None)


class ScanPrompts(NamedTuple):
    """Factors of one picture's embedding on the scan (Eq. 9), float32, ones where a prompt is switched off.

    Attributes:
        delta: of the step size, positive, (B, D).
        B: of the input matrix, (B, N).
        C: of the output matrix, (B, N).
    """

    delta: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor


@contextlib.contextmanager
def scan_backend(backend: Backend) -> Iterator[None]:
    """Force one implementation inside the block, in this thread; the scan says if its package is missing.

    Args:
        backend: "numba", "triton", "mamba_ssm", "kernels", "chunked", "export" or "loop". With "kernels" code from the
            Hub is downloaded and run. With "export" the layers use no kernels of ours either, so that a program traced
            inside the block needs nothing but torch's own operators.

    Raises:
        ValueError: no such implementation.
    """
    token = _forced.set(_checked_backend("backend", backend))
    try:
        yield
    finally:
        _forced.reset(token)


def _checked_backend(name: str, backend: str) -> Backend:
    if backend not in get_args(Backend):
        choices = ", ".join(get_args(Backend))
        raise ValueError(f"`{name}` must be one of {choices}, got {backend!r}; choose one of these")
    return backend


@torch.compiler.assume_constant_result
def _forced_backend() -> Backend | None:
    asked = _forced.get() or os.environ.get("DPMAMBAIR_SCAN")
    return _checked_backend("DPMAMBAIR_SCAN", asked) if asked else None


def is_portable() -> bool:
    """Whether `scan_backend("export")` is in force: then only operators that other runtimes have too may run."""
    return _forced_backend() == "export"


def _choose_backend(u: torch.Tensor, discretization: Discretization) -> Backend:
    forced = _forced_backend()
    if forced:
        _check_forced(forced, u, discretization)
        return forced
    if u.dtype == torch.float64:
        return "chunked"
    if u.device.type == "cpu" and prompted_scan_cpu is not None:
        return "numba"
    if u.device.type == "cuda" and (prompted_scan_triton is not None or selective_scan_fn is not None):
        kernel = "mamba_ssm" if prompted_scan_triton is None else "triton"
        return kernel if discretization == "euler" else "chunked"
    warn_slow_scan(u.device.type)
    return "chunked"


def _check_forced(backend: Backend, u: torch.Tensor, discretization: Discretization) -> None:
    """Check that a forced implementation is there and can compute what is asked."""
    fix = "let another backend compute it"
    if backend in ("triton", "mamba_ssm", "kernels") and discretization == "zoh":
        raise ValueError(f"`discretization` must be 'euler' with {_PACKAGES[backend]}, got 'zoh'; {fix}")
    functions = {"numba": prompted_scan_cpu, "triton": prompted_scan_triton, "mamba_ssm": selective_scan_fn}
    if functions.get(backend, backend) is None:
        option = "--no-build-isolation " if backend == "mamba_ssm" else ""
        package = _PACKAGES[backend]
        raise ImportError(f"the scan backend {backend!r} needs {package}: pip install {option}{package}")
    if backend == "triton" and u.device.type != "cuda" and not is_interpreted():
        raise ValueError(f"`u` must be on a GPU with triton, got {u.device}; {fix}")


@torch.compiler.disable
def warn_slow_scan(device: str) -> None:
    """Say once that the fast kernel of this kind of device is absent."""
    missing = {"cpu": "numba", "cuda": "triton"}.get(device)
    remedy = f"pip install {missing}" if missing else "there is none for this device yet"
    warnings.warn(f"the selective scan runs in plain torch on {device}, which is slow: {remedy}", stacklevel=4)


def selective_scan(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    """Run the selective state-space recurrence (Eqs. 3-5), first step to last, in float32 or better.

    h_i = exp(delta_i A) h_{i-1} + delta_i B_i u_i;  y_i = C_i h_i + D u_i.

    Args:
        u: input sequence, (B, L, D).
        delta: step size after softplus, strictly positive, (B, L, D).
        A: continuous decay, strictly negative, (D, N), float32.
        B: input matrix, (B, L, N).
        C: output matrix, (B, L, N).
        D: skip, (D,), float32.

    Returns:
        Output sequence, (B, L, D), in the dtype of `u`.

    Raises:
        ValueError: shapes that do not belong together.
    """
    _check_shapes(u, delta, A, B, C, D)
    backend = _choose_backend(u, "euler")
    if backend in _FUSED:
        prompts = ScanPrompts(u.new_ones(u.shape[::2]).float(), *(A.new_ones(len(u), A.shape[1]) for _ in range(2)))
        return _FUSED[backend]((u, delta, A, B, C, D, None), prompts)
    return _SCANS[backend](u, delta, A, B, C, D)


def prompted_selective_scan(
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    *,
    dt_bias: torch.Tensor,
    prompts: ScanPrompts,
    is_reversed: bool = False,
    discretization: Discretization = "euler",
) -> torch.Tensor:
    """Run the degradation-aware prompt scan (Eqs. 8-9): softplus, the three prompts, then the recurrence.

    Delta_dp = alpha_Delta softplus(dt + dt_bias), B_dp = alpha_B B, C_dp = alpha_C C replace Delta, B, C.

    Args:
        u: input sequence, (B, L, D).
        dt: step size before its bias and softplus, (B, L, D).
        A: continuous decay, strictly negative, (D, N), float32.
        B: input matrix, (B, L, N).
        C: output matrix, (B, L, N).
        D: skip, (D,), float32.
        dt_bias: bias of the step size, (D,), float32.
        prompts: alpha_Delta, alpha_B, alpha_C.
        is_reversed: run from the last step to the first.
        discretization: "euler", B_bar = Delta B, as all Mamba kernels compute; "zoh", the zero-order hold of Eq. 4.

    Returns:
        Output sequence, (B, L, D), in the dtype of `u`.

    Raises:
        ValueError: shapes that do not belong together.
    """
    _check_shapes(u, dt, A, B, C, D)
    _check_prompts(u, A, dt_bias, prompts)
    backend = _choose_backend(u, discretization)
    is_held = discretization == "zoh"
    if backend in _FUSED:
        return _FUSED[backend]((u, dt, A, B, C, D, dt_bias), prompts, is_reversed, is_held)
    sequences = u, *apply_prompts(dt.to(dt_bias.dtype), B, C, dt_bias, prompts)
    u, delta, B, C = (each.to(u.dtype).flip(1) if is_reversed else each.to(u.dtype) for each in sequences)
    options = {"is_held": True} if is_held else {}  # mamba-ssm knows no hold and is never chosen for it
    y = _SCANS[backend](u, delta, A, B, C, D, **options)
    return y.flip(1) if is_reversed else y


def apply_prompts(
    dt: torch.Tensor, B: torch.Tensor, C: torch.Tensor, dt_bias: torch.Tensor, prompts: ScanPrompts
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Delta_dp, B_dp and C_dp (Eq. 9); arguments as in `prompted_selective_scan`."""
    # Paper: Eq. 9 multiplies Delta without saying where; here: after softplus, because Delta_dp must stay positive.
    delta = F.softplus(dt + dt_bias) * prompts.delta[:, None]
    return delta, B * prompts.B[:, None], C * prompts.C[:, None]


def resume_selective_scan(
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    *,
    state: torch.Tensor | None,
    dt_bias: torch.Tensor,
    prompts: ScanPrompts,
    is_reversed: bool = False,
    discretization: Discretization = "euler",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `prompted_selective_scan` over a further part of a sequence, without gradients.

    Where no kernel of ours scans, the state enters by N steps of almost no length, each of which adds one column, and
    N more read it out.

    Args:
        u: input sequence of this part, (B, L, D); all that follows is as there.
        dt: step size before its bias and softplus, (B, L, D).
        A: continuous decay, (D, N).
        B: input matrix, (B, L, N).
        C: output matrix, (B, L, N).
        D: skip, (D,).
        state: what the call for the part before returned, (B, D, N), float32; None at the beginning.
        dt_bias: bias of the step size, (D,).
        prompts: alpha_Delta, alpha_B, alpha_C.
        is_reversed: run from the last step to the first; the last part then comes first.
        discretization: "euler" or "zoh".

    Returns:
        Output of this part, (B, L, D), in the dtype of `u`, and the state after it.

    Raises:
        ValueError: shapes that do not belong together.
    """
    kind = {"dt_bias": dt_bias, "is_reversed": is_reversed, "discretization": discretization}
    backend = _choose_backend(u, discretization)
    if backend in _FUSED:
        _check_shapes(u, dt, A, B, C, D)
        _check_prompts(u, A, dt_bias, prompts)
    if backend == "triton":
        return resume_scan_triton(state, _prepare_for_triton((u, dt, A, B, C, D, dt_bias), prompts), is_reversed)
    if backend == "numba":
        (channels, N), tensors = A.shape, _prepare_for_numba((u, dt, A, B, C, D, dt_bias), prompts)
        padded = None if state is None else F.pad(state, (0, -N % STATES, 0, -channels % LANES))
        y, state = resume_scan_cpu(padded, tensors, is_reversed, discretization == "zoh")
        return y[..., :channels].to(u.dtype), state[:, :channels, :N]
    N, dtype = A.shape[1], u.dtype
    if dtype == torch.float16:  # its range ends before what steps of almost no length must add
        u, dt, B, C = (each.float() for each in (u, dt, B, C))
    B, C = ((each * prompt[:, None]).to(u.dtype) for each, prompt in ((B, prompts.B), (C, prompts.C)))
    basis = torch.eye(N, dtype=u.dtype, device=u.device).expand(len(u), -1, -1)
    still = (ALMOST_NO_STEP - dt_bias).to(u.dtype).expand(len(u), N, -1)
    step = F.softplus(still.float() + dt_bias) * prompts.delta[:, None]
    none = torch.zeros_like(still)
    added = none if state is None else (state.transpose(1, 2) / step).to(u.dtype)
    ends = ((added, none), (still, still), (basis, basis), (basis, basis))
    joined = (
        torch.cat([last, each, first] if is_reversed else [first, each, last], 1)
        for each, (first, last) in zip((u, dt, B, C), ends, strict=True)
    )
    u, dt, B, C = joined
    ones = torch.ones(len(u), N, device=u.device)
    y = prompted_selective_scan(u, dt, A, B, C, D, prompts=ScanPrompts(prompts.delta, ones, ones), **kind)
    read = y[:, :N] if is_reversed else y[:, -N:]
    return y[:, N:-N].to(dtype), read.transpose(1, 2).float()


def _check_shapes(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> None:
    pictures, L, channels = u.shape
    matrix = (pictures, L, A.shape[-1])
    _check_shape("delta", delta, (pictures, L, channels))
    _check_shape("A", A, (channels, A.shape[-1]))
    _check_shape("B", B, matrix)
    _check_shape("C", C, matrix)
    _check_shape("D", D, (channels,))


def _check_prompts(u: torch.Tensor, A: torch.Tensor, dt_bias: torch.Tensor, prompts: ScanPrompts) -> None:
    pictures, _, channels = u.shape
    # The operator would take a bias without storage for a trace and return what happens to lie in memory.
    if dt_bias.device != u.device:
        where = f"on {u.device} like `u`, got {dt_bias.device}"
        raise ValueError(f"`dt_bias` must be {where}; place the whole model in memory, nothing of it offloaded")
    _check_shape("dt_bias", dt_bias, (channels,))
    _check_shape("prompts.delta", prompts.delta, (pictures, channels))
    _check_shape("prompts.B", prompts.B, (pictures, A.shape[-1]))
    _check_shape("prompts.C", prompts.C, (pictures, A.shape[-1]))


def _check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"`{name}` must be of shape {shape}, got {tuple(tensor.shape)}; it goes with `u` and `A`")


def selective_scan_loop(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    *,
    is_held: bool = False,
) -> torch.Tensor:
    """Run the recurrence one step at a time, as Eqs. 4-5 print it: the oracle of the tests, in any dtype.

    Arguments and result as in `selective_scan_chunked`.
    """
    h = A.new_zeros(*u.shape[::2], A.shape[1])
    outputs = []
    for step in range(u.shape[1]):
        delta_step, u_step = delta[:, step, :, None], u[:, step, :, None]
        hold = torch.expm1(delta_step * A) / A if is_held else delta_step
        h = torch.exp(delta_step * A) * h + hold * B[:, step, None] * u_step
        outputs.append((h * C[:, step, None]).sum(-1) + D * u[:, step])
    return torch.stack(outputs, 1).to(u.dtype)


def _combine_steps(decay: torch.Tensor, drive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compose the steps h -> decay h + drive along dimension 1 by doubling: products only, so never unstable."""
    reach = 1
    while reach < decay.shape[1]:
        earlier_drive = F.pad(drive[:, :-reach], (0, 0, 0, 0, reach, 0))
        earlier_decay = F.pad(decay[:, :-reach], (0, 0, 0, 0, reach, 0), value=1.0)
        decay, drive = decay * earlier_decay, torch.addcmul(drive, decay, earlier_drive)
        reach *= 2
    return decay, drive


def _scan_chunk(
    h: torch.Tensor, decay_rate: torch.Tensor, drive: torch.Tensor, C: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    decay, drive = _combine_steps(torch.exp(decay_rate), drive)
    states = torch.addcmul(drive, decay, h[:, None])
    return torch.einsum("bldn,bln->bld", states, C), states[:, -1]


def selective_scan_chunked(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    *,
    is_held: bool = False,
) -> torch.Tensor:
    """Run the recurrence chunk by chunk in plain torch, on any device; the backward recomputes each chunk.

    Arguments and result as in `selective_scan`; with `is_held` the input is held between steps (Eq. 4 as printed).
    """
    work = torch.promote_types(u.dtype, torch.float32)
    h = A.new_zeros(*u.shape[::2], A.shape[1], dtype=work)
    outputs = []
    for start in range(0, u.shape[1], CHUNK_STEPS):
        part = slice(start, start + CHUNK_STEPS)
        delta_part = delta[:, part, :, None].to(work)
        decay_rate = delta_part * A.to(work)
        hold = torch.expm1(decay_rate) / A.to(work) if is_held else delta_part
        drive = hold * B[:, part, None].to(work) * u[:, part, :, None].to(work)
        y, h = checkpoint(_scan_chunk, h, decay_rate, drive, C[:, part].to(work), use_reentrant=False)
        outputs.append(y)
    return (torch.cat(outputs, 1) + D.to(work) * u).to(u.dtype)


def selective_scan_mamba(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    *,
    kernel: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """Hand the recurrence to mamba-ssm, whose kernel wants (B, D, L), one dtype for u, delta, B, C and float32 A, D.

    Arguments and result as in `selective_scan`; `kernel` is a `selective_scan_fn`, the installed package's if None.
    """
    kernel = kernel or selective_scan_fn
    channels_first = (each.to(u.dtype).transpose(1, 2).contiguous() for each in (u, delta, B, C))
    u, delta, B, C = channels_first
    return kernel(u, delta, A.float(), B, C, D.float(), delta_softplus=False).transpose(1, 2)


@torch.compiler.disable  # compiled programs go around it: they cannot trace what is only downloaded when they run
def _scan_from_hub(*tensors: torch.Tensor) -> torch.Tensor:
    return selective_scan_mamba(*tensors, kernel=load_hub_kernel())


def _scan_numba(
    tensors: tuple[torch.Tensor | None, ...], prompts: ScanPrompts, is_reversed: bool = False, is_held: bool = False
) -> torch.Tensor:
    """Scan u, dt, A, B, C, D and dt_bias with the kernels."""
    u, prepared = tensors[0], _prepare_for_numba(tensors, prompts)
    keeps_states = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in prepared)
    y, _ = prompted_scan_cpu(*prepared, is_reversed, is_held, keeps_states)
    return y[..., : u.shape[2]].to(u.dtype)


def _prepare_for_numba(
    tensors: tuple[torch.Tensor | None, ...], prompts: ScanPrompts
) -> tuple[torch.Tensor | None, ...]:
    """Give the kernels one dtype and whole numbers of what they take at once, sixteen channels and four states."""
    u, dt, A, B, C, D, dt_bias = tensors
    is_half = all(each.dtype == torch.bfloat16 for each in (u, dt, B, C))
    u, dt, B, C = (each if is_half else each.float() for each in (u, dt, B, C))
    A, D, alpha_delta, alpha_B, alpha_C = (each.float() for each in (A, D, *prompts))
    missing = -u.shape[2] % LANES
    if missing:
        u, dt, D, alpha_delta = (F.pad(each, (0, missing)) for each in (u, dt, D, alpha_delta))
        A = F.pad(A, (0, 0, 0, missing), value=-1.0)
        dt_bias = None if dt_bias is None else F.pad(dt_bias, (0, missing))
    missing = -B.shape[2] % STATES
    if missing:
        A = F.pad(A, (0, missing), value=-1.0)
        B, C, alpha_B, alpha_C = (F.pad(each, (0, missing)) for each in (B, C, alpha_B, alpha_C))
    return u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C


def _scan_triton(
    tensors: tuple[torch.Tensor | None, ...], prompts: ScanPrompts, is_reversed: bool = False, is_held: bool = False
) -> torch.Tensor:
    """Scan u, dt, A, B, C, D and dt_bias with the kernels, which know no hold and are never chosen for it."""
    return prompted_scan_triton(*_prepare_for_triton(tensors, prompts), is_reversed)[0]


def _prepare_for_triton(
    tensors: tuple[torch.Tensor | None, ...], prompts: ScanPrompts
) -> tuple[torch.Tensor | None, ...]:
    """Give the kernels float32 for all that does not change along the sequence."""
    u, dt, A, B, C, D, dt_bias = tensors
    A, D, dt_bias, *alphas = (each if each is None else each.float() for each in (A, D, dt_bias, *prompts))
    return u, dt, A, B, C, D, dt_bias, *alphas


_PACKAGES = {"numba": "numba", "triton": "triton", "mamba_ssm": "mamba-ssm", "kernels": "mamba-ssm"}
# These take the prompts, the bias, softplus and the direction themselves; the others get them computed.
_FUSED = {"numba": _scan_numba, "triton": _scan_triton}
_SCANS = {
    "mamba_ssm": selective_scan_mamba,
    "kernels": _scan_from_hub,
    "chunked": selective_scan_chunked,
    "export": selective_scan_export,
    "loop": selective_scan_loop,
}
