"""The selective scan on the processor as torch operators with autograd."""

import itertools
from functools import partial
from typing import Any

import torch

from .cpu_scan_backward_kernels_dpmambair import ScanGradients, backward_scratch, scan_backward
from .cpu_scan_kernels_dpmambair import (
    CHUNK,
    ScanRows,
    ScanSize,
    ScanTask,
    ScanWeights,
    forward_scratch,
    scan_forward,
)
from .cpu_simd_dpmambair import LANES, LN_2
from .cpu_threads_dpmambair import flat, run_tasks
from .operators_dpmambair import differentiate, operator_name


def _share_out(pictures: int, blocks: int, threads: int) -> list[ScanTask]:
    """Divide pictures, and where they are fewer than the threads their blocks of channels too, into tasks."""
    groups = 1 if pictures >= threads else min(blocks, -(-threads // pictures))
    edges = [blocks * group // groups for group in range(groups + 1)]
    parts = [(first, last, group) for group, (first, last) in enumerate(itertools.pairwise(edges))]
    return [ScanTask(picture, *part) for picture in range(pictures) for part in parts]


def _rows_of(u: torch.Tensor, dt: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> ScanRows:
    if B.stride() != C.stride() or B.stride(-1) != 1:
        B, C = B.contiguous(), C.contiguous()
    return ScanRows(flat(u.contiguous()), flat(dt.contiguous()), flat(B), flat(C), (B.stride(0), B.stride(1)))


def _weights_of(A: torch.Tensor, is_held: bool, *others: torch.Tensor | None) -> ScanWeights:
    by_blocks = A.view(-1, LANES, A.shape[1]).transpose(1, 2).contiguous()
    A_inverse = 1 / by_blocks if is_held else A.new_empty(0)
    others = (A.new_empty(0) if other is None else other.contiguous() for other in others)
    return ScanWeights(*map(flat, (by_blocks / LN_2, A_inverse, *others)))


def _run_forward(
    tensors: tuple[torch.Tensor | None, ...], is_reversed: bool, is_held: bool, states: torch.Tensor, H: torch.Tensor
) -> torch.Tensor:
    u, dt, A, B, C, D, dt_bias, *alphas = tensors
    (pictures, L, channels), N = u.shape, A.shape[1]
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    inputs = (_rows_of(u, dt, B, C), _weights_of(A, is_held, D, dt_bias, *alphas))
    size = ScanSize(L, channels, N, is_reversed, dt_bias is not None, is_held)
    tasks = _share_out(pictures, channels // LANES, torch.get_num_threads())
    run_tasks(scan_forward, tasks, (*inputs, size), (flat(y), flat(states), flat(H)), partial(forward_scratch, N=N))
    return y


def _run_from_state(state: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    *tensors, is_reversed, is_held = arguments
    pictures, channels, N = state.shape
    H = state.view(pictures, channels // LANES, LANES, N).transpose(2, 3).clone(memory_format=torch.contiguous_format)
    y = _run_forward(tuple(tensors), is_reversed, is_held, state.new_empty(0), H)
    return y, H.transpose(2, 3).reshape(state.shape)


_resume = differentiate(_run_from_state)


def resume_scan_cpu(
    state: torch.Tensor | None, tensors: tuple[torch.Tensor | None, ...], is_reversed: bool, is_held: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scan on from a state (B, D, N), or from none, without gradients and outside compiled programs.

    `tensors` are those of `prompted_scan_cpu`. Returns the output and the state after the last step.
    """
    u, _, A = tensors[:3]
    state = A.new_zeros(len(u), *A.shape) if state is None else state
    return _resume(state, *tensors, is_reversed, is_held)


@torch.library.custom_op(operator_name("selective_scan"), mutates_args=(), device_types="cpu")
def prompted_scan_operator(
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor | None,
    alpha_delta: torch.Tensor,
    alpha_B: torch.Tensor,
    alpha_C: torch.Tensor,
    is_reversed: bool,
    is_held: bool,
    keeps_states: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scan with prompts on the processor: the operator behind `prompted_selective_scan`, which documents it.

    u, dt, B and C share one dtype, float32 or bfloat16; everything else is float32. D is a multiple of 16,
    N of 4.
    Returns the output and the states that the backward needs (empty unless `keeps_states`).
    """
    (pictures, L, channels), N = u.shape, A.shape[1]
    kept = (pictures, -(-L // CHUNK), channels // LANES, N, LANES)
    states = A.new_empty(kept if keeps_states else (0,))
    tensors = (u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C)
    y = _run_forward(tensors, is_reversed, is_held, states, A.new_zeros(pictures, channels * N))
    return y, states


@prompted_scan_operator.register_fake
def _(u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C, is_reversed, is_held, keeps_states):  # noqa: ANN001, ANN202
    pictures, L, channels = u.shape
    kept = (pictures, (L + CHUNK - 1) // CHUNK, channels // LANES, A.shape[1], LANES)
    return torch.empty_like(u, memory_format=torch.contiguous_format), A.new_empty(kept if keeps_states else (0,))


@torch.library.custom_op(operator_name("selective_scan_backward"), mutates_args=(), device_types="cpu")
def prompted_scan_backward_operator(
    dy: torch.Tensor,
    states: torch.Tensor,
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor | None,
    alpha_delta: torch.Tensor,
    alpha_B: torch.Tensor,
    alpha_C: torch.Tensor,
    is_reversed: bool,
    is_held: bool,
) -> list[torch.Tensor]:
    """Return the gradients of u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B and alpha_C, in this order."""
    pictures, L, channels = u.shape
    N, blocks = A.shape[1], channels // LANES
    tasks = _share_out(pictures, blocks, torch.get_num_threads())
    groups = 1 + max(task.group for task in tasks)
    by_u, by_dt = (torch.empty_like(each, memory_format=torch.contiguous_format) for each in (u, dt))
    by_B, by_C = (A.new_empty(groups, pictures, L, N) for _ in range(2))
    by_alpha_B, by_alpha_C = (A.new_zeros(groups, pictures, N) for _ in range(2))
    by_A = A.new_zeros(pictures, blocks, N, LANES)
    by_D, by_bias, by_alpha_delta = (A.new_zeros(pictures, channels) for _ in range(3))
    outputs = (by_u, by_dt, by_B, by_C, by_A, by_D, by_bias, by_alpha_delta, by_alpha_B, by_alpha_C)
    inputs = (_rows_of(u, dt, B, C), _weights_of(A, is_held, D, dt_bias, alpha_delta, alpha_B, alpha_C))
    size = ScanSize(L, channels, N, is_reversed, dt_bias is not None, is_held)
    extra = (flat(dy.to(u.dtype).contiguous()), flat(states), ScanGradients(*map(flat, outputs)))
    run_tasks(scan_backward, tasks, (*inputs, size), extra, partial(backward_scratch, N=N))
    return [
        by_u,
        by_dt,
        by_A.sum(0).transpose(1, 2).reshape(channels, N).contiguous(),
        _add_up(by_B).to(B.dtype),
        _add_up(by_C).to(C.dtype),
        by_D.sum(0),
        by_bias.sum(0),
        by_alpha_delta,
        by_alpha_B.sum(0),
        by_alpha_C.sum(0),
    ]


def _add_up(shares: torch.Tensor) -> torch.Tensor:
    """Add all others of the shares (groups, ...) to the first, which takes no further memory."""
    total = shares[0]
    for share in shares[1:]:
        total += share
    return total


@prompted_scan_backward_operator.register_fake
def _(dy, states, u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C, is_reversed, is_held):  # noqa: ANN001, ANN202
    inputs = (u, dt, A, B, C, D, D, alpha_delta, alpha_B, alpha_C)
    return [torch.empty_like(each, memory_format=torch.contiguous_format) for each in inputs]


@differentiate
def prompted_scan_cpu_backward(*inputs: Any) -> tuple[torch.Tensor, ...]:
    """Return what `prompted_scan_backward_operator` does, which has no gradients of its own."""
    return tuple(prompted_scan_backward_operator(*inputs))


def _keep_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.is_reversed, ctx.is_held, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _propagate(ctx: Any, dy: torch.Tensor, _: torch.Tensor) -> tuple:
    *tensors, states = ctx.saved_tensors
    if not states.numel():  # of nested transforms of torch.func the caller sees the innermost alone
        _, states = prompted_scan_cpu(*tensors, ctx.is_reversed, ctx.is_held, True)
    gradients = list(prompted_scan_cpu_backward(dy, states, *tensors, ctx.is_reversed, ctx.is_held))
    gradients[6] = None if tensors[6] is None else gradients[6]
    return (*gradients, None, None, None)


prompted_scan_operator.register_autograd(_propagate, setup_context=_keep_for_backward)
prompted_scan_cpu = differentiate(prompted_scan_operator, _keep_for_backward, _propagate)
