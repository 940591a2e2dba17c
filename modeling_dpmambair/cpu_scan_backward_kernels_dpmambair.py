"""The selective scan's kernel of the gradients: a chunk forwards again from its kept state, then its adjoint back.

As in the forward, every block of sixteen channels passes through one chunk before the chunk before it begins.
"""

from typing import NamedTuple

import numpy as np
import torch

from .cpu_scan_kernels_dpmambair import CHUNK, ScanTask, discretize, read_block, read_matrices, row_at
from .cpu_simd_dpmambair import (
    LANES,
    LN_2,
    Float32x16,
    add_folded,
    exp2m1,
    fma,
    inlined,
    kernel,
    load,
    load_scalar,
    reciprocal,
    splat,
    store,
    store_scalar,
)


class ScanGradients(NamedTuple):
    """Where the backward writes, flat arrays; all but `u` and `dt` float32 and zero at the start.

    Attributes:
        u, dt: (B, L, D), in the inputs' dtype.
        B, C: a share for each group of blocks, (groups, B, L, N).
        A: of the natural decay, by blocks, (B, D / 16, N, 16).
        D, dt_bias, alpha_delta: a picture's own, (B, D).
        alpha_B, alpha_C: a share for each group of blocks, (groups, B, N).
    """

    u: np.ndarray
    dt: np.ndarray
    B: np.ndarray
    C: np.ndarray
    A: np.ndarray
    D: np.ndarray
    dt_bias: np.ndarray
    alpha_delta: np.ndarray
    alpha_B: np.ndarray
    alpha_C: np.ndarray


class GradientChunk(NamedTuple):
    """What the backward keeps of one chunk while it is in the cache; all from `H` on is one block's.

    Attributes:
        B: prompted input matrices, (steps, N).
        C: prompted output matrices, (steps, N).
        BC_sums: gradients of two states' B and C in four lanes each, summed over the blocks so far,
            (steps, N / 2, 16), in the order B, C, B, C.
        H: two states, the first of each from before the chunk, (2, steps + 1, 16).
        decays: of these states, (2, steps, 16).
        u: input, (steps, 16), float32 and dense.
        by_y: gradient of the output, likewise.
        deltas: step sizes, (steps, 16).
        by_exponent: gradient of the step sizes by way of the decays, summed over the states so far, (steps, 16).
        by_hold: gradient of what the input is multiplied by, likewise, (steps, 16).
        by_u: gradient of the input where it is held, likewise, (steps, 16).
        alpha_sums: gradients of the prompts of B and C, summed over the chunks so far, (2, N): the threads would
            fight over the cache lines of the gradients themselves.
    """

    B: np.ndarray
    C: np.ndarray
    BC_sums: np.ndarray
    H: np.ndarray
    decays: np.ndarray
    u: np.ndarray
    by_y: np.ndarray
    deltas: np.ndarray
    by_exponent: np.ndarray
    by_hold: np.ndarray
    by_u: np.ndarray
    alpha_sums: np.ndarray


def backward_scratch(task: ScanTask, N: int) -> tuple[np.ndarray, GradientChunk]:
    """Allocate, as `forward_scratch`, what one task of the backward works on: a chunk, and gradients of its states."""
    matrices = (torch.empty(CHUNK * N * width).numpy() for width in (1, 1, 8))
    rows = (torch.empty(steps * LANES).numpy() for steps in (2 * (CHUNK + 1), 2 * CHUNK, *[CHUNK] * 6))
    chunk = GradientChunk(*matrices, *rows, torch.zeros(2 * N).numpy())
    return torch.zeros((task.last - task.first) * N * LANES).numpy(), chunk


@kernel
def _begin_block(rows, weights, size, dy, place, cache):  # noqa: ANN001, ANN202
    """Read a block's rows of a chunk, recompute their step sizes and clear the sums over the states."""
    picture, block, start, steps = place
    read_block(rows, weights, size, place, cache)
    for i in range(steps):
        store(cache.by_y, i * LANES, load(dy, (picture * size.L + row_at(start + i, size)) * size.D + block * LANES))
    cache.by_exponent.fill(0.0)
    cache.by_hold.fill(0.0)
    cache.by_u.fill(0.0)


@kernel
def _replay(weights, size, block, steps, n, slot, h, cache):  # noqa: ANN001, ANN202
    """Recompute one state of a block and its decays inside a chunk, from the state `h` before it."""
    A, at_H, at_decay = (block * size.N + n) * LANES, slot * (CHUNK + 1) * LANES, slot * CHUNK * LANES
    store(cache.H, at_H, h)
    for i in range(steps):
        at = i * LANES
        decay, hold = discretize(load(cache.deltas, at), weights, size, A)
        h = fma(decay, h, (hold * load(cache.u, at)) * splat(load_scalar(cache.B, i * size.N + n)))
        store(cache.decays, at_decay + at, decay)
        store(cache.H, at_H + at + LANES, h)


@kernel
def _adjoint(weights, size, block, steps, n, gradients, cache):  # noqa: ANN001, ANN202
    """Run the adjoint recurrence backwards over two states of a block's chunk.

    With g the gradient of h_i = decay h_{i-1} + Delta B u: by Delta B u and by decay g h_{i-1}, by h_{i-1} g decay.

    Takes the gradients of the states after the chunk and those of A so far; returns those of the states before the
    chunk, and the others with this chunk's share.
    """
    g0, g1, by_rate0, by_rate1 = gradients
    A, second = (block * size.N + n) * LANES, (CHUNK + 1) * LANES
    rate0, rate1 = load(weights.A, A), load(weights.A, A + LANES)
    h0, h1 = load(cache.H, steps * LANES), load(cache.H, second + steps * LANES)
    for i in range(steps - 1, -1, -1):
        at, matrix = i * LANES, i * size.N + n
        by_y, delta = load(cache.by_y, at), load(cache.deltas, at)
        source = delta * load(cache.u, at)
        g0 = fma(by_y, splat(load_scalar(cache.C, matrix)), g0)
        g1 = fma(by_y, splat(load_scalar(cache.C, matrix + 1)), g1)
        add_folded(cache.BC_sums, matrix * 8, g0 * source, g1 * source, h0 * by_y, h1 * by_y)
        by_hold = fma(g0, splat(load_scalar(cache.B, matrix)), load(cache.by_hold, at))
        store(cache.by_hold, at, fma(g1, splat(load_scalar(cache.B, matrix + 1)), by_hold))
        h0, h1 = load(cache.H, at), load(cache.H, second + at)
        g0, g1 = g0 * load(cache.decays, at), g1 * load(cache.decays, CHUNK * LANES + at)
        g_h0, g_h1 = g0 * h0, g1 * h1
        store(cache.by_exponent, at, fma(g_h1, rate1, fma(g_h0, rate0, load(cache.by_exponent, at))))
        by_rate0, by_rate1 = fma(g_h0, delta, by_rate0), fma(g_h1, delta, by_rate1)
    return g0, g1, by_rate0, by_rate1


@inlined
def _hold_back(
    by_drive: Float32x16, u: Float32x16, delta: Float32x16, decay: Float32x16, hold: Float32x16, inverse: Float32x16
) -> Float32x16:
    """Return the gradient of A by way of the hold: its derivative by A is (Delta decay - hold) / A."""
    return by_drive * u * (fma(delta, decay, hold * splat(np.float32(-1.0))) * inverse)


@kernel
def _held_adjoint(weights, size, block, steps, n, gradients, cache):  # noqa: ANN001, ANN202
    """Run `_adjoint` where the input is held: h_i = decay h_{i-1} + hold B u with hold = (decay - 1) / A.

    The derivative of hold by Delta is the decay. A loop of its own, since one for both kinds would keep more vectors
    than there are registers.
    """
    g0, g1, by_rate0, by_rate1 = gradients
    A, second = (block * size.N + n) * LANES, (CHUNK + 1) * LANES
    rate0, rate1 = load(weights.A, A), load(weights.A, A + LANES)
    inverse0, inverse1 = load(weights.A_inverse, A), load(weights.A_inverse, A + LANES)
    h0, h1 = load(cache.H, steps * LANES), load(cache.H, second + steps * LANES)
    for i in range(steps - 1, -1, -1):
        at, matrix = i * LANES, i * size.N + n
        by_y, u, delta = load(cache.by_y, at), load(cache.u, at), load(cache.deltas, at)
        decay0, hold0 = discretize(delta, weights, size, A)
        decay1, hold1 = discretize(delta, weights, size, A + LANES)
        g0 = fma(by_y, splat(load_scalar(cache.C, matrix)), g0)
        g1 = fma(by_y, splat(load_scalar(cache.C, matrix + 1)), g1)
        add_folded(cache.BC_sums, matrix * 8, g0 * (hold0 * u), g1 * (hold1 * u), h0 * by_y, h1 * by_y)
        by_drive0 = g0 * splat(load_scalar(cache.B, matrix))
        by_drive1 = g1 * splat(load_scalar(cache.B, matrix + 1))
        store(cache.by_hold, at, fma(by_drive1, decay1, fma(by_drive0, decay0, load(cache.by_hold, at))))
        store(cache.by_u, at, fma(by_drive1, hold1, fma(by_drive0, hold0, load(cache.by_u, at))))
        by_rate0 = by_rate0 + _hold_back(by_drive0, u, delta, decay0, hold0, inverse0)
        by_rate1 = by_rate1 + _hold_back(by_drive1, u, delta, decay1, hold1, inverse1)
        h0, h1 = load(cache.H, at), load(cache.H, second + at)
        g0, g1 = g0 * decay0, g1 * decay1
        g_h0, g_h1 = g0 * h0, g1 * h1
        store(cache.by_exponent, at, fma(g_h1, rate1, fma(g_h0, rate0, load(cache.by_exponent, at))))
        by_rate0, by_rate1 = fma(g_h0, delta, by_rate0), fma(g_h1, delta, by_rate1)
    return g0, g1, by_rate0, by_rate1


@kernel
def _backpropagate_block(weights, size, states, by_A, place, kept, G, cache):  # noqa: ANN001, ANN202
    """Run one block's states through a chunk, forwards again from the kept ones and then backwards, two at a time.

    What two states need of a chunk stays in the first-level cache this way; in the forward's order it would not.
    """
    picture, block, _, steps = place
    for n in range(0, size.N, 2):
        lanes = n * LANES
        _replay(weights, size, block, steps, n, 0, load(states, kept + lanes), cache)
        _replay(weights, size, block, steps, n + 1, 1, load(states, kept + lanes + LANES), cache)
        at_A, at_G = (picture * size.D + block * LANES) * size.N + lanes, G[0] + lanes
        before = load(G[1], at_G), load(G[1], at_G + LANES), load(by_A, at_A), load(by_A, at_A + LANES)
        if size.is_held:
            after = _held_adjoint(weights, size, block, steps, n, before, cache)
        else:
            after = _adjoint(weights, size, block, steps, n, before, cache)
        store(G[1], at_G, after[0])
        store(G[1], at_G + LANES, after[1])
        store(by_A, at_A, after[2])
        store(by_A, at_A + LANES, after[3])


@kernel
def _finish_block(rows, weights, size, gradients, place, cache):  # noqa: ANN001, ANN202
    """Turn a block's sums over the states into the gradients of u, dt, D and what dt was made with."""
    picture, block, start, steps = place
    channel, at_D = block * LANES, picture * size.D + block * LANES
    skip, prompt = load(weights.D, channel), load(weights.alpha_delta, at_D)
    inverse = reciprocal(prompt)
    by_D, by_bias, by_prompt = (
        load(gradients.D, at_D),
        load(gradients.dt_bias, at_D),
        load(gradients.alpha_delta, at_D),
    )
    for i in range(steps):
        row, at = (picture * size.L + row_at(start + i, size)) * size.D + channel, i * LANES
        by_y, u = load(cache.by_y, at), load(cache.u, at)
        delta, by_hold = load(cache.deltas, at), load(cache.by_hold, at)
        store(gradients.u, row, fma(skip, by_y, load(cache.by_u, at) if size.is_held else delta * by_hold))
        by_D = fma(u, by_y, by_D)
        by_delta = fma(load(cache.by_exponent, at), splat(np.float32(LN_2)), u * by_hold)
        if size.has_softplus:
            softplus = delta * inverse
            by_prompt = fma(by_delta, softplus, by_prompt)
            # softplus rises by the sigmoid, which is 1 - exp(-softplus)
            by_delta = by_delta * prompt * exp2m1(softplus * splat(np.float32(-1.0 / LN_2))) * splat(np.float32(-1.0))
            by_bias = by_bias + by_delta
        store(gradients.dt, row, by_delta)
    store(gradients.D, at_D, by_D)
    store(gradients.dt_bias, at_D, by_bias)
    store(gradients.alpha_delta, at_D, by_prompt)


@kernel
def _sum_four(array, index):  # noqa: ANN001, ANN202
    """Add up the four numbers `array[index:]`."""
    lower = load_scalar(array, index) + load_scalar(array, index + 1)
    return lower + (load_scalar(array, index + 2) + load_scalar(array, index + 3))


@kernel
def _accumulate(array, index, value):  # noqa: ANN001, ANN202
    """Add to one number of an array."""
    store_scalar(array, index, load_scalar(array, index) + value)


@kernel
def _finish_matrices(rows, weights, size, gradients, task, start, steps, cache):  # noqa: ANN001, ANN202
    """Write a chunk's gradients of B and C, whose sums over the blocks are complete, and add to their prompts'."""
    pictures, prompt = gradients.D.size // size.D, task.picture * size.N
    copy = task.group * pictures + task.picture
    for i in range(steps):
        row = row_at(start + i, size)
        source, target = task.picture * rows.strides[0] + row * rows.strides[1], (copy * size.L + row) * size.N
        for n in range(size.N):
            sums = (i * size.N + n // 2 * 2) * 8 + n % 2 * 8  # of two states B, C, B, C
            by_B, by_C = _sum_four(cache.BC_sums, sums), _sum_four(cache.BC_sums, sums + 4)
            store_scalar(gradients.B, target + n, by_B * load_scalar(weights.alpha_B, prompt + n))
            store_scalar(gradients.C, target + n, by_C * load_scalar(weights.alpha_C, prompt + n))
            _accumulate(cache.alpha_sums, n, by_B * load_scalar(rows.B, source + n))
            _accumulate(cache.alpha_sums, size.N + n, by_C * load_scalar(rows.C, source + n))


@kernel
def scan_backward(rows, weights, size, task, dy, states, gradients, G, cache):  # noqa: ANN001, ANN201
    """Write one task's share of all gradients, given the gradient `dy` (B, L, D) of the output and the kept states.

    G and `cache` come from `backward_scratch`.
    """
    N, blocks, chunks = size.N, size.D // LANES, (size.L + CHUNK - 1) // CHUNK
    for chunk in range(chunks - 1, -1, -1):
        start = chunk * CHUNK
        steps = min(CHUNK, size.L - start)
        read_matrices(rows, weights, size, task.picture, start, steps, cache.B, cache.C)
        cache.BC_sums.fill(0.0)
        for block in range(task.first, task.last):
            place = (task.picture, block, start, steps)
            _begin_block(rows, weights, size, dy, place, cache)
            kept = ((task.picture * chunks + chunk) * blocks + block) * N * LANES
            state = ((block - task.first) * N * LANES, G)
            _backpropagate_block(weights, size, states, gradients.A, place, kept, state, cache)
            _finish_block(rows, weights, size, gradients, place, cache)
        _finish_matrices(rows, weights, size, gradients, task, start, steps, cache)
    copy = (task.group * (gradients.D.size // size.D) + task.picture) * N
    for n in range(N):
        store_scalar(gradients.alpha_B, copy + n, load_scalar(cache.alpha_sums, n))
        store_scalar(gradients.alpha_C, copy + n, load_scalar(cache.alpha_sums, N + n))
