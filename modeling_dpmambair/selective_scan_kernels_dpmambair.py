"""The selective scan's kernels for the processor, forward and backward, in numba over vectors of sixteen channels.

Time is cut into chunks and every block of sixteen channels passes through one chunk before the next chunk begins: the
rows stay in the cache, where channel by channel a (B, L, D) array costs a cache miss at each step. Softplus, its bias,
the prompts and the skip D happen inside, so the mixer makes no other pass over (B, L, D) for them. The states live in
the cache; the backward starts from one stored state a chunk and recomputes the others.

The kernels are serial and release the interpreter's lock; their callers give each thread its own tasks and scratch.
Numba keeps them compiled on disk by this file's date: touch it after a change of the lanes below it.
"""

from typing import NamedTuple

import numpy as np

from .lanes_dpmambair import (
    LANES,
    LN_2,
    add_folded,
    exp2,
    exp2m1,
    fma,
    kernel,
    load,
    load_scalar,
    sigmoid,
    softplus,
    splat,
    store,
)

CHUNK = 32


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
        L, D, N: steps, channels (a multiple of 16), states.
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


class ScanTask(NamedTuple):
    """A share of the work: a picture, its blocks of channels from `first` to before `last`, and their group."""

    picture: int
    first: int
    last: int
    group: int


@kernel
def _row(step: int, size: ScanSize) -> int:
    return size.L - 1 - step if size.is_reversed else step


@kernel
def _read_matrices(rows, weights, size, picture, start, steps, B, C):  # noqa: ANN001, ANN202
    """Copy a chunk's B and C rows, times their prompts, to float32 arrays that stay in the cache."""
    for i in range(steps):
        source = picture * rows.strides[0] + _row(start + i, size) * rows.strides[1]
        for n in range(size.N):
            B[i * size.N + n] = load_scalar(rows.B, source + n) * weights.alpha_B[picture * size.N + n]
            C[i * size.N + n] = load_scalar(rows.C, source + n) * weights.alpha_C[picture * size.N + n]


@kernel
def _step_size(dt, weights, size, picture, channel):  # noqa: ANN001, ANN202
    """Return the modulated step size (Eq. 9): dt itself, or alpha_Delta * softplus(dt + bias)."""
    if size.has_softplus:
        return softplus(dt + load(weights.dt_bias, channel)) * load(weights.alpha_delta, picture * size.D + channel)
    return dt


@kernel
def _discretize(delta, weights, size, A):  # noqa: ANN001, ANN202
    """Return exp(Delta A) and what B u is multiplied by: Delta, or (exp(Delta A) - 1) / A (Eq. 4)."""
    exponent = delta * load(weights.A, A)
    if size.is_held:
        growth = exp2m1(exponent)
        return growth + splat(np.float32(1.0)), growth * load(weights.A_inverse, A)
    return exp2(exponent), delta


@kernel
def scan_forward(rows, weights, size, task, y, states, H, B, C):  # noqa: ANN001, ANN201
    """Run one task's share of the recurrence, writing its part of `y` (B, L, D) in the inputs' dtype.

    `states` keeps the state before each chunk, (B, chunks, D / 16, N, 16), for the backward; empty: none is kept.
    H is the state before the first step, (B, D / 16, N, 16), and becomes that after the last. B and C come from
    `forward_scratch`.
    """
    N, blocks, chunks = size.N, size.D // LANES, (size.L + CHUNK - 1) // CHUNK
    for chunk in range(chunks):
        start = chunk * CHUNK
        steps = min(CHUNK, size.L - start)
        _read_matrices(rows, weights, size, task.picture, start, steps, B, C)
        for block in range(task.first, task.last):
            channel, state, A = block * LANES, (task.picture * blocks + block) * N * LANES, block * N * LANES
            if states.size:
                kept = ((task.picture * chunks + chunk) * blocks + block) * N * LANES
                for n in range(N):
                    store(states, kept + n * LANES, load(H, state + n * LANES))
            skip = load(weights.D, channel)
            for i in range(steps):
                row = (task.picture * size.L + _row(start + i, size)) * size.D + channel
                u = load(rows.u, row)
                delta = _step_size(load(rows.dt, row), weights, size, task.picture, channel)
                out = skip * u
                # Two loops, since one for both kinds would keep more vectors than there are registers.
                if size.is_held:
                    for n in range(N):
                        decay, hold = _discretize(delta, weights, size, A + n * LANES)
                        h = fma(decay, load(H, state + n * LANES), (hold * u) * splat(B[i * N + n]))
                        store(H, state + n * LANES, h)
                        out = fma(h, splat(C[i * N + n]), out)
                else:
                    source = delta * u
                    for n in range(N):
                        decay = exp2(delta * load(weights.A, A + n * LANES))
                        h = fma(decay, load(H, state + n * LANES), source * splat(B[i * N + n]))
                        store(H, state + n * LANES, h)
                        out = fma(h, splat(C[i * N + n]), out)
                store(y, row, out)


class ScanGradients(NamedTuple):
    """Where the backward writes, flat arrays; all but `u` and `dt` float32 and zero at the start.

    Attributes:
        u, dt: (B, L, D), in the inputs' dtype.
        B, C: of the prompted matrices, one copy a group of blocks, (groups, B, L, N).
        A: of the natural decay, by blocks, (B, D / 16, N, 16).
        D, dt_bias, alpha_delta: a picture's own, (B, D).
    """

    u: np.ndarray
    dt: np.ndarray
    B: np.ndarray
    C: np.ndarray
    A: np.ndarray
    D: np.ndarray
    dt_bias: np.ndarray
    alpha_delta: np.ndarray


class ScanChunk(NamedTuple):
    """What the backward keeps of one chunk while it is in the cache; all from `H` on is one block's.

    Attributes:
        B: prompted input matrices, (steps, N).
        C: prompted output matrices, (steps, N).
        BC_sums: gradients of B and C in two lanes each, summed over the blocks so far, (steps, N, 4).
        H: one state, the first from before the chunk, (steps + 1, 16).
        decays: of that state, (steps, 16).
        u: input, (steps, 16), float32 and dense.
        by_y: gradient of the output, likewise.
        deltas: step sizes, (steps, 16).
        by_exponent: gradient of the step sizes by way of the decays, summed over the states so far, (steps, 16).
        by_hold: gradient of what the input is multiplied by, likewise, (steps, 16).
        by_u: gradient of the input where it is held, likewise, (steps, 16).
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


def forward_scratch(_: ScanTask, N: int) -> tuple[np.ndarray, ...]:
    """Allocate what one task of the forward works on: a chunk's B and C."""
    return tuple(np.empty((2, CHUNK * N), np.float32))


def backward_scratch(task: ScanTask, N: int) -> tuple[np.ndarray, ScanChunk]:
    """Allocate what one task of the backward works on: gradients of its states, zero at the end, and a chunk."""
    matrices = (np.empty(CHUNK * N * width, np.float32) for width in (1, 1, 4))
    rows = (np.empty(steps * LANES, np.float32) for steps in (CHUNK + 1, *[CHUNK] * 7))
    return np.zeros((task.last - task.first) * N * LANES, np.float32), ScanChunk(*matrices, *rows)


@kernel
def _begin_block(rows, weights, size, dy, place, cache):  # noqa: ANN001, ANN202
    """Read a block's rows of a chunk, recompute their step sizes and clear the sums over the states."""
    picture, block, start, steps = place
    for i in range(steps):
        row, at = (picture * size.L + _row(start + i, size)) * size.D + block * LANES, i * LANES
        store(cache.u, at, load(rows.u, row))
        store(cache.by_y, at, load(dy, row))
        store(cache.deltas, at, _step_size(load(rows.dt, row), weights, size, picture, block * LANES))
    cache.by_exponent.fill(0.0)
    cache.by_hold.fill(0.0)
    cache.by_u.fill(0.0)


@kernel
def _replay(weights, size, block, steps, n, h, cache):  # noqa: ANN001, ANN202
    """Recompute one state of a block and its decays inside a chunk, from the state `h` before it."""
    A = (block * size.N + n) * LANES
    store(cache.H, 0, h)
    for i in range(steps):
        at = i * LANES
        decay, hold = _discretize(load(cache.deltas, at), weights, size, A)
        h = fma(decay, h, (hold * load(cache.u, at)) * splat(cache.B[i * size.N + n]))
        store(cache.decays, at, decay)
        store(cache.H, at + LANES, h)


@kernel
def _adjoint(weights, size, block, steps, n, g, of_A, cache):  # noqa: ANN001, ANN202
    """Run the adjoint recurrence backwards over one state of a block's chunk.

    With g the gradient of h_i = decay h_{i-1} + Delta B u: by Delta B u and by decay g h_{i-1}, by h_{i-1} g decay.

    Takes the gradient `g` of the state after the chunk and the gradient `of_A` so far; returns that of the state
    before the chunk, and the other with this chunk's share.
    """
    rate, after = load(weights.A, (block * size.N + n) * LANES), load(cache.H, steps * LANES)
    for i in range(steps - 1, -1, -1):
        at, matrix = i * LANES, i * size.N + n
        by_y, delta, before = load(cache.by_y, at), load(cache.deltas, at), load(cache.H, at)
        g = fma(by_y, splat(cache.C[matrix]), g)
        add_folded(cache.BC_sums, matrix * 4, g * (delta * load(cache.u, at)), after * by_y)
        store(cache.by_hold, at, fma(g, splat(cache.B[matrix]), load(cache.by_hold, at)))
        g = g * load(cache.decays, at)
        g_h = g * before
        store(cache.by_exponent, at, fma(g_h, rate, load(cache.by_exponent, at)))
        of_A, after = fma(g_h, delta, of_A), before
    return g, of_A


@kernel
def _held_adjoint(weights, size, block, steps, n, g, of_A, cache):  # noqa: ANN001, ANN202
    """Run `_adjoint` where the input is held: h_i = decay h_{i-1} + hold B u with hold = (decay - 1) / A.

    The derivative of hold by Delta is the decay, by A (Delta decay - hold) / A. A loop of its own, since one for both
    kinds would keep more vectors than there are registers.
    """
    A = (block * size.N + n) * LANES
    rate, inverse, after = load(weights.A, A), load(weights.A_inverse, A), load(cache.H, steps * LANES)
    for i in range(steps - 1, -1, -1):
        at, matrix = i * LANES, i * size.N + n
        by_y, u, delta, before = load(cache.by_y, at), load(cache.u, at), load(cache.deltas, at), load(cache.H, at)
        decay, hold = _discretize(delta, weights, size, A)
        g = fma(by_y, splat(cache.C[matrix]), g)
        g_B = g * splat(cache.B[matrix])
        add_folded(cache.BC_sums, matrix * 4, g * (hold * u), after * by_y)
        store(cache.by_hold, at, fma(g_B, decay, load(cache.by_hold, at)))
        store(cache.by_u, at, fma(g_B, hold, load(cache.by_u, at)))
        of_A = fma(g_B * u, fma(delta, decay, hold * splat(np.float32(-1.0))) * inverse, of_A)
        g = g * decay
        g_h = g * before
        store(cache.by_exponent, at, fma(g_h, rate, load(cache.by_exponent, at)))
        of_A, after = fma(g_h, delta, of_A), before
    return g, of_A


@kernel
def _backpropagate_block(weights, size, states, by_A, place, kept, G, cache):  # noqa: ANN001, ANN202
    """Run one block's states through a chunk, forwards again from the kept ones and then backwards, one by one.

    What a state needs of a chunk stays in the first-level cache this way; in the forward's order it would not.
    """
    picture, block, _, steps = place
    for n in range(size.N):
        lanes = n * LANES
        _replay(weights, size, block, steps, n, load(states, kept + lanes), cache)
        at_A, at_G = (picture * size.D + block * LANES) * size.N + lanes, G[0] + lanes
        g, of_A = load(G[1], at_G), load(by_A, at_A)
        if size.is_held:
            g, of_A = _held_adjoint(weights, size, block, steps, n, g, of_A, cache)
        else:
            g, of_A = _adjoint(weights, size, block, steps, n, g, of_A, cache)
        store(G[1], at_G, g)
        store(by_A, at_A, of_A)


@kernel
def _write_step_gradient(rows, weights, size, gradients, place, row, by_delta):  # noqa: ANN001, ANN202
    """Carry the step size's gradient on to dt and, where softplus and the prompt are ours, to bias and prompt."""
    picture, channel = place[0], place[1] * LANES
    if not size.has_softplus:
        store(gradients.dt, row, by_delta)
    else:
        raw, at = load(rows.dt, row) + load(weights.dt_bias, channel), picture * size.D + channel
        by_raw = by_delta * load(weights.alpha_delta, at) * sigmoid(raw)
        store(gradients.dt, row, by_raw)
        store(gradients.dt_bias, at, load(gradients.dt_bias, at) + by_raw)
        store(gradients.alpha_delta, at, fma(by_delta, softplus(raw), load(gradients.alpha_delta, at)))


@kernel
def _finish_block(rows, weights, size, gradients, place, cache):  # noqa: ANN001, ANN202
    """Turn a block's sums over the states into the gradients of u, dt, D and what dt was made with."""
    picture, block, start, steps = place
    channel = block * LANES
    at_channel, skip = picture * size.D + channel, load(weights.D, channel)
    for i in range(steps):
        row, at = (picture * size.L + _row(start + i, size)) * size.D + channel, i * LANES
        by_y, u, by_hold = load(cache.by_y, at), load(cache.u, at), load(cache.by_hold, at)
        by_u = load(cache.by_u, at) if size.is_held else load(cache.deltas, at) * by_hold
        store(gradients.u, row, fma(skip, by_y, by_u))
        store(gradients.D, at_channel, fma(u, by_y, load(gradients.D, at_channel)))
        by_delta = fma(load(cache.by_exponent, at), splat(np.float32(LN_2)), u * by_hold)
        _write_step_gradient(rows, weights, size, gradients, place, row, by_delta)


@kernel
def _write_matrix_gradients(gradients, size, first_row, start, steps, cache):  # noqa: ANN001, ANN202
    """Write a chunk's rows of the gradients of B and C, whose sums over the blocks are complete."""
    for i in range(steps):
        row = (first_row + _row(start + i, size)) * size.N
        for n in range(size.N):
            at = (i * size.N + n) * 4
            gradients.B[row + n] = cache.BC_sums[at] + cache.BC_sums[at + 1]
            gradients.C[row + n] = cache.BC_sums[at + 2] + cache.BC_sums[at + 3]


@kernel
def scan_backward(rows, weights, size, task, dy, states, gradients, G, cache):  # noqa: ANN001, ANN201
    """Write one task's share of all gradients, given the gradient `dy` (B, L, D) of the output and the kept states.

    G and `cache` come from `backward_scratch`.
    """
    N, blocks, chunks = size.N, size.D // LANES, (size.L + CHUNK - 1) // CHUNK
    pictures = gradients.D.size // size.D
    for chunk in range(chunks - 1, -1, -1):
        start = chunk * CHUNK
        steps = min(CHUNK, size.L - start)
        _read_matrices(rows, weights, size, task.picture, start, steps, cache.B, cache.C)
        cache.BC_sums.fill(0.0)
        for block in range(task.first, task.last):
            place = (task.picture, block, start, steps)
            _begin_block(rows, weights, size, dy, place, cache)
            kept = ((task.picture * chunks + chunk) * blocks + block) * N * LANES
            state = ((block - task.first) * N * LANES, G)
            _backpropagate_block(weights, size, states, gradients.A, place, kept, state, cache)
            _finish_block(rows, weights, size, gradients, place, cache)
        first_row = (task.group * pictures + task.picture) * size.L
        _write_matrix_gradients(gradients, size, first_row, start, steps, cache)
