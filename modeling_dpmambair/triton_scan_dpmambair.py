"""The selective scan on GPUs as torch operators with autograd, in Triton."""

from typing import Any

import torch

from .operators_dpmambair import differentiate, operator_name
from .triton_scan_kernels_dpmambair import (
    backpropagate_chunks,
    carry_states,
    scan_chunks,
    summarize_chunks,
    triton,
)

# Steps of a chunk, and those whose states the gradients keep in registers at once.
CHUNK, PART = 64, 4
# Channels of a program: a warp of NVIDIA's, half of one of AMD's.
D_BLOCK = 32
# What the carry from chunk to chunk takes at once: numbers of the state, chunks.
CARRY_BLOCK, CARRY_GROUP = 32, 8
ONE_WARP = {"num_warps": 1}


def is_interpreted() -> bool:
    """Whether Triton interprets kernels in Python (TRITON_INTERPRET=1 before its import): on the CPU, for tests."""
    return not isinstance(scan_chunks, triton.JITFunction)


def _block_sizes(N: int) -> dict[str, int]:
    return {"CHUNK": CHUNK, "D_BLOCK": D_BLOCK, "N_BLOCK": triton.next_power_of_2(N)}


def count_backward_warps(N: int) -> int:
    """Return how many warps share a chunk's gradients: one for 16 states, as many as registers hold without spills."""
    return max(1, triton.next_power_of_2(N) // 16)


def _programs(u: torch.Tensor) -> int:
    pictures, L, channels = u.shape
    return pictures * triton.cdiv(L, CHUNK) * triton.cdiv(channels, D_BLOCK)


def _prepare(tensors: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
    """Turn A to (N, D) and make all contiguous but B and C, whose dense rows of one projection may stay."""
    u, dt, A, B, C, *others = tensors
    u, dt, A, *others = (each if each is None else each.contiguous() for each in (u, dt, A.T, *others))
    if B.stride() != C.stride() or B.stride(-1) != 1:
        B, C = B.contiguous(), C.contiguous()
    return u, dt, A, B, C, *others


def _carry_between_chunks(
    scanned: tuple[torch.Tensor, ...], first: torch.Tensor, is_reversed: bool, is_adjoint: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states before all chunks, (B, chunks, N, D), and the one after the last, (B, N, D).

    `scanned` holds u, dt, B, A (N, D), the bias and the prompts of Delta and B. Of the adjoint the gradient of the
    output stands for u, C for B, and the states are gradients of states, which run backwards.
    """
    x, dt, matrix, A, dt_bias, alpha_delta, alpha_matrix = scanned
    (pictures, L, channels), N = x.shape, len(A)
    chunks = triton.cdiv(L, CHUNK)
    states, spans = A.new_empty(pictures, chunks, N, channels), A.new_empty(pictures, chunks, channels)
    sizes, kind = (L, channels, N, *matrix.stride()[:2]), {"IS_REVERSED": is_reversed, "IS_ADJOINT": is_adjoint}
    weights = (A, dt_bias, alpha_delta, alpha_matrix)
    summarize_chunks[(_programs(x),)](
        x, dt, matrix, *weights, states, spans, *sizes, **_block_sizes(N), **kind, **ONE_WARP
    )
    last, parts = torch.empty_like(first), triton.cdiv(N * channels, CARRY_BLOCK)
    kind = {"BLOCK": CARRY_BLOCK, "GROUP": CARRY_GROUP, "IS_BACKWARDS": is_adjoint}
    carry_states[(pictures * parts,)](first, last, states, spans, A, chunks, channels, N, **kind, **ONE_WARP)
    return states, last


def _run_forward(
    tensors: tuple[torch.Tensor | None, ...], first: torch.Tensor, is_reversed: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the output, the states before all chunks and the one after the last; `first` is (B, N, D)."""
    u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C = _prepare(tensors)
    y, (_, L, channels), N = torch.empty_like(u), u.shape, len(A)
    with torch.cuda.device_of(u):
        scanned = (u, dt, B, A, dt_bias, alpha_delta, alpha_B)
        states, last = _carry_between_chunks(scanned, first, is_reversed, False)
        inputs = (u, dt, B, C, A, D, dt_bias, alpha_delta, alpha_B, alpha_C)
        sizes = (L, channels, N, *B.stride()[:2])
        scan_chunks[(_programs(u),)](
            *inputs, states, y, *sizes, **_block_sizes(N), IS_REVERSED=is_reversed, **ONE_WARP
        )
    return y, states, last


def _run_from_state(state: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    *tensors, is_reversed = arguments
    y, _, last = _run_forward(tuple(tensors), state.transpose(1, 2).contiguous(), is_reversed)
    return y, last.transpose(1, 2)


_resume = differentiate(_run_from_state)


def resume_scan_triton(
    state: torch.Tensor | None, tensors: tuple[torch.Tensor | None, ...], is_reversed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scan on from a state (B, D, N), or from none, without gradients and outside compiled programs.

    `tensors` are those of `prompted_scan_triton`. Returns the output and the state after the last step.
    """
    u, _, A = tensors[:3]
    state = A.new_zeros(len(u), *A.shape) if state is None else state
    return _resume(state, *tensors, is_reversed)


@torch.library.custom_op(operator_name("selective_scan_triton"), mutates_args=())
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scan with prompts on a GPU: the operator behind `prompted_selective_scan`, which documents it.

    u, dt, B and C may each be float32, bfloat16 or float16; everything else is float32.
    Returns the output, in the dtype of u, and the states that the backward needs.
    """
    tensors = (u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C)
    y, states, _ = _run_forward(tensors, A.new_zeros(len(u), A.shape[1], len(A)), is_reversed)
    return y, states


@prompted_scan_operator.register_fake
def _(u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C, is_reversed):  # noqa: ANN001, ANN202
    pictures, L, channels = u.shape
    states = A.new_empty(pictures, (L + CHUNK - 1) // CHUNK, A.shape[1], channels)
    return torch.empty_like(u, memory_format=torch.contiguous_format), states


@torch.library.custom_op(operator_name("selective_scan_triton_backward"), mutates_args=())
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
) -> list[torch.Tensor]:
    """Return the gradients of u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B and alpha_C, in this order."""
    dy, tensors = dy.contiguous(), (u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C)
    u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C = _prepare(tensors)
    (pictures, L, channels), N = u.shape, len(A)
    blocks, chunks = triton.cdiv(channels, D_BLOCK), triton.cdiv(L, CHUNK)
    by_u, by_dt = torch.empty_like(u), torch.empty_like(dt)
    by_B, by_C = (A.new_empty(blocks, pictures, L, N) for _ in range(2))
    by_A, by_channel = A.new_empty(pictures, chunks, N, channels), A.new_empty(3, pictures, chunks, channels)
    with torch.cuda.device_of(u):
        scanned = (dy, dt, C, A, dt_bias, alpha_delta, alpha_C)
        adjoints, _ = _carry_between_chunks(scanned, A.new_zeros(pictures, N, channels), is_reversed, True)
        inputs = (u, dt, B, C, A, D, dt_bias, alpha_delta, alpha_B, alpha_C, dy, states, adjoints)
        scratch = A.new_empty(pictures, chunks, CHUNK // PART, N, channels)
        outputs = (scratch, by_u, by_dt, by_B, by_C, by_A, by_channel)
        sizes = (L, channels, N, *B.stride()[:2])
        kind = {"PART": PART, "IS_REVERSED": is_reversed, **_block_sizes(N), "num_warps": count_backward_warps(N)}
        backpropagate_chunks[(_programs(u),)](*inputs, *outputs, *sizes, **kind)
    by_B, by_C = by_B.sum(0), by_C.sum(0)
    by_D, by_bias, by_alpha_delta = by_channel.sum(2)
    return [
        by_u,
        by_dt,
        by_A.sum((0, 1)).T.contiguous(),
        (by_B * alpha_B[:, None]).to(B.dtype),
        (by_C * alpha_C[:, None]).to(C.dtype),
        by_D.sum(0),
        by_bias.sum(0),
        by_alpha_delta.clone(),
        (by_B * B).sum(1),
        (by_C * C).sum(1),
    ]


@prompted_scan_backward_operator.register_fake
def _(dy, states, u, dt, A, B, C, D, dt_bias, alpha_delta, alpha_B, alpha_C, is_reversed):  # noqa: ANN001, ANN202
    inputs = (u, dt, A, B, C, D, D, alpha_delta, alpha_B, alpha_C)
    return [torch.empty_like(each, memory_format=torch.contiguous_format) for each in inputs]


@differentiate
def prompted_scan_triton_backward(*inputs: Any) -> tuple[torch.Tensor, ...]:
    """Return what `prompted_scan_backward_operator` does, which has no gradients of its own."""
    return tuple(prompted_scan_backward_operator(*inputs))


def _keep_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.is_reversed = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _propagate(ctx: Any, dy: torch.Tensor, _: torch.Tensor) -> tuple:
    *tensors, states = ctx.saved_tensors
    gradients = list(prompted_scan_triton_backward(dy, states, *tensors, ctx.is_reversed))
    gradients[6] = None if tensors[6] is None else gradients[6]
    return (*gradients, None)


prompted_scan_operator.register_autograd(_propagate, setup_context=_keep_for_backward)
prompted_scan_triton = differentiate(prompted_scan_operator, _keep_for_backward, _propagate)
