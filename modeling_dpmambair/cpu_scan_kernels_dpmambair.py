"""The selective scan's kernel for the processor, in numba over vectors of sixteen channels.

Time is cut into chunks and every block of sixteen channels passes through one chunk before the next chunk begins: the
rows stay in the cache, where channel by channel a (B, L, D) array costs a cache miss at each step. Softplus, its bias,
the prompts and the skip D happen inside, so the mixer makes no other pass over (B, L, D) for them.

Kernels are serial and release the interpreter's lock; their callers give each thread its own tasks and scratch.
Numba keeps them compiled on disk by their file's date: touch it after a change of what it imports of ours.
"""

from typing import NamedTuple

import numpy as np
import torch

from .cpu_simd_dpmambair import (
    LANES,
    Float32x16,
    exp2,
    exp2m1,
    fma,
    inlined,
    kernel,
    load,
    load_scalar,
    softplus,
    splat,
    store,
    store_scalar,
)

# Steps of a chunk, and states that a loop over them takes at once; their number is a multiple of it.
CHUNK, STATES = 32, 4


class ScanRows(NamedTuple):
    """What the scan reads at every step, as flat arrays: float32, or bfloat16 as int16 bit patterns.

    Attributes:
        u: input, (B, L, D).
        dt: step size before bias and softplus, or the step size itself, (B, L, D).
        B: input matrix, (B, L, N), rows `strides[1]` numbers apart.
        C: output matrix, likewise.
        strides: numbers from one picture of B and C to the next, and from one step to the next.
    """

    u: np.ndarray
    dt: np.ndarray
    B: np.ndarray
    C: np.ndarray
    strides: tuple[int, int]


class ScanWeights(NamedTuple):
    """What the scan holds constant over time, flat float32 arrays.

    Attributes:
        A: decay in powers of two (A / ln 2), by blocks of lanes, (D / 16, N, 16).
        A_inverse: 1 / A in the same order; empty unless the input is held.
        D: skip, (D,).
        dt_bias: added to dt before softplus, (D,); unread where dt is the step size itself.
        alpha_delta: prompt of the step size, (B, D).
        alpha_B: prompt of the input matrix, (B, N).
        alpha_C: prompt of the output matrix, (B, N).
    """

    A: np.ndarray
    A_inverse: np.ndarray
    D: np.ndarray
    dt_bias: np.ndarray
    alpha_delta: np.ndarray
    alpha_B: np.ndarray
    alpha_C: np.ndarray


class ScanSize(NamedTuple):
    """Sizes and kind of one call.

    Attributes:
        L, D, N: steps, channels (a multiple of 16), states (a multiple of 4).
        is_reversed: time runs from the last step to the first.
        has_softplus: dt still needs its bias, softplus and prompt.
        is_held: the input is held between steps (zero-order hold) instead of weighed by the step size (Euler).
    """

    L: int
    D: int
    N: int
    is_reversed: bool
    has_softplus: bool
    is_held: bool


class OutputChunk(NamedTuple):
    """What the forward keeps of one chunk while it is in the cache; all from `u` on is one block's.

    Attributes:
        B: prompted input matrices, (steps, N).
        C: prompted output matrices, (steps, N).
        u: input, (steps, 16), float32 and dense.
        deltas: step sizes, (steps, 16).
        y: output, summed over the states so far, (steps, 16).
    """

    B: np.ndarray
    C: np.ndarray
    u: np.ndarray
    deltas: np.ndarray
    y: np.ndarray


class ScanTask(NamedTuple):
    """A share of the work: a picture, its blocks of channels from `first` to before `last`, and their group."""

    picture: int
    first: int
    last: int
    group: int


def forward_scratch(_: ScanTask, N: int) -> tuple[OutputChunk]:
    """Allocate what one task of the forward works on: a chunk."""
    # Torch's arrays begin at cache lines; those of numpy need not, and a vector would lie across two.
    matrices = (torch.empty(CHUNK * N).numpy() for _ in range(2))
    return (OutputChunk(*matrices, *(torch.empty(CHUNK * LANES).numpy() for _ in range(3))),)


@kernel
def row_at(step: int, size: ScanSize) -> int:
    """Return which row of the sequence a step of the recurrence takes."""
    return size.L - 1 - step if size.is_reversed else step


@kernel
def read_matrices(rows, weights, size, picture, start, steps, B, C):  # noqa: ANN001, ANN201
    """Copy a chunk's B and C rows, times their prompts, to float32 arrays that stay in the cache."""
    prompts = picture * size.N
    for i in range(steps):
        source = picture * rows.strides[0] + row_at(start + i, size) * rows.strides[1]
        for n in range(size.N):
            at = i * size.N + n
            store_scalar(B, at, load_scalar(rows.B, source + n) * load_scalar(weights.alpha_B, prompts + n))
            store_scalar(C, at, load_scalar(rows.C, source + n) * load_scalar(weights.alpha_C, prompts + n))


@kernel
def step_size(dt, weights, size, picture, channel):  # noqa: ANN001, ANN201
    """Return the modulated step size (Eq. 9): dt itself, or alpha_Delta * softplus(dt + bias)."""
    if size.has_softplus:
        return softplus(dt + load(weights.dt_bias, channel)) * load(weights.alpha_delta, picture * size.D + channel)
    return dt


@kernel
def discretize(delta, weights, size, A):  # noqa: ANN001, ANN201
    """Return exp(Delta A) and what B u is multiplied by: Delta, or (exp(Delta A) - 1) / A (Eq. 4)."""
    exponent = delta * load(weights.A, A)
    if size.is_held:
        growth = exp2m1(exponent)
        return growth + splat(np.float32(1.0)), growth * load(weights.A_inverse, A)
    return exp2(exponent), delta


@kernel
def read_block(rows, weights, size, place, cache):  # noqa: ANN001, ANN201
    """Read a block's inputs of a chunk, and compute its step sizes."""
    picture, block, start, steps = place
    for i in range(steps):
        row = (picture * size.L + row_at(start + i, size)) * size.D + block * LANES
        store(cache.u, i * LANES, load(rows.u, row))
        store(cache.deltas, i * LANES, step_size(load(rows.dt, row), weights, size, picture, block * LANES))


@inlined
def _advance(delta: Float32x16, source: Float32x16, rate: Float32x16, h: Float32x16, B: float) -> Float32x16:
    """Return the state after a step, exp(Delta A) h + Delta u B."""
    return fma(exp2(delta * rate), h, source * splat(B))


@kernel
def _run_states(weights, size, block, steps, H, state, cache):  # noqa: ANN001, ANN202
    """Run a block's states through a chunk, four at a time: these and their decays stay in registers."""
    for n in range(0, size.N, STATES):
        A, at_H = (block * size.N + n) * LANES, state + n * LANES
        rate0, rate1 = load(weights.A, A), load(weights.A, A + LANES)
        rate2, rate3 = load(weights.A, A + 2 * LANES), load(weights.A, A + 3 * LANES)
        h0, h1 = load(H, at_H), load(H, at_H + LANES)
        h2, h3 = load(H, at_H + 2 * LANES), load(H, at_H + 3 * LANES)
        for i in range(steps):
            at, matrix = i * LANES, i * size.N + n
            delta, y = load(cache.deltas, at), load(cache.y, at)
            source = delta * load(cache.u, at)
            h0 = _advance(delta, source, rate0, h0, load_scalar(cache.B, matrix))
            h1 = _advance(delta, source, rate1, h1, load_scalar(cache.B, matrix + 1))
            h2 = _advance(delta, source, rate2, h2, load_scalar(cache.B, matrix + 2))
            h3 = _advance(delta, source, rate3, h3, load_scalar(cache.B, matrix + 3))
            y = fma(h0, splat(load_scalar(cache.C, matrix)), y)
            y = fma(h1, splat(load_scalar(cache.C, matrix + 1)), y)
            y = fma(h2, splat(load_scalar(cache.C, matrix + 2)), y)
            y = fma(h3, splat(load_scalar(cache.C, matrix + 3)), y)
            store(cache.y, at, y)
        store(H, at_H, h0)
        store(H, at_H + LANES, h1)
        store(H, at_H + 2 * LANES, h2)
        store(H, at_H + 3 * LANES, h3)


@kernel
def _run_held_states(weights, size, block, steps, H, state, cache):  # noqa: ANN001, ANN202
    """Run a block's states through a chunk where the input is held, one by one."""
    for n in range(size.N):
        A, h = (block * size.N + n) * LANES, load(H, state + n * LANES)
        for i in range(steps):
            at, matrix = i * LANES, i * size.N + n
            decay, hold = discretize(load(cache.deltas, at), weights, size, A)
            h = fma(decay, h, (hold * load(cache.u, at)) * splat(load_scalar(cache.B, matrix)))
            store(cache.y, at, fma(h, splat(load_scalar(cache.C, matrix)), load(cache.y, at)))
        store(H, state + n * LANES, h)


@kernel
def scan_forward(rows, weights, size, task, y, states, H, cache):  # noqa: ANN001, ANN201
    """Run one task's share of the recurrence, writing its part of `y` (B, L, D) in the inputs' dtype.

    `states` keeps the state before each chunk, (B, chunks, D / 16, N, 16), for the backward; empty: none is kept.
    H is the state before the first step, (B, D / 16, N, 16), and becomes that after the last. `cache` comes from
    `forward_scratch`.
    """
    N, blocks, chunks = size.N, size.D // LANES, (size.L + CHUNK - 1) // CHUNK
    for chunk in range(chunks):
        start = chunk * CHUNK
        steps = min(CHUNK, size.L - start)
        read_matrices(rows, weights, size, task.picture, start, steps, cache.B, cache.C)
        for block in range(task.first, task.last):
            channel, state = block * LANES, (task.picture * blocks + block) * N * LANES
            if states.size:
                kept = ((task.picture * chunks + chunk) * blocks + block) * N * LANES
                for n in range(N):
                    store(states, kept + n * LANES, load(H, state + n * LANES))
            read_block(rows, weights, size, (task.picture, block, start, steps), cache)
            skip = load(weights.D, channel)
            for i in range(steps):
                store(cache.y, i * LANES, skip * load(cache.u, i * LANES))
            if size.is_held:
                _run_held_states(weights, size, block, steps, H, state, cache)
            else:
                _run_states(weights, size, block, steps, H, state, cache)
            for i in range(steps):
                row = (task.picture * size.L + row_at(start + i, size)) * size.D + channel
                store(y, row, load(cache.y, i * LANES))
