"""The selective scan's kernels for the processor, forward and backward, in numba over vectors of sixteen channels.

Time is cut into chunks and every block of sixteen channels passes through one chunk before the next chunk begins: the
rows stay in the cache, where channel by channel a (B, L, D) array costs a cache miss at each step. Softplus, its bias,
the prompts and the skip D happen inside, so the mixer makes no other pass over (B, L, D) for them. The states live in
the cache; the backward starts from one stored state a chunk and recomputes the others.

The kernels are serial and release the interpreter's lock; their callers give each thread its own tasks. Numba keeps
them compiled on disk by this file's date: touch it after a change of the lanes below it.
"""

from typing import NamedTuple

import numpy as np

try:
    from numba import njit
except ImportError as error:  # as in the lanes below
    raise ImportError("the fast selective scan on the processor needs numba: pip install numba") from error

from .lanes_dpmambair import (
    LANES,
    LN_2,
    exp2,
    exp2m1,
    fma,
    lane_sum,
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


@njit(nogil=True, cache=True)
def _row(step: int, size: ScanSize) -> int:
    return size.L - 1 - step if size.is_reversed else step


@njit(nogil=True, cache=True)
def _read_matrices(rows, weights, size, picture, start, steps, B, C):  # noqa: ANN001, ANN202
    """Copy a chunk's B and C rows, times their prompts, to float32 arrays that stay in the cache."""
    for i in range(steps):
        source = picture * rows.strides[0] + _row(start + i, size) * rows.strides[1]
        for n in range(size.N):
            B[i * size.N + n] = load_scalar(rows.B, source + n) * weights.alpha_B[picture * size.N + n]
            C[i * size.N + n] = load_scalar(rows.C, source + n) * weights.alpha_C[picture * size.N + n]


@njit(nogil=True, cache=True)
def _step_size(dt, weights, size, picture, channel):  # noqa: ANN001, ANN202
    """Return the modulated step size (Eq. 9): dt itself, or alpha_Delta * softplus(dt + bias)."""
    if size.has_softplus:
        return softplus(dt + load(weights.dt_bias, channel)) * load(weights.alpha_delta, picture * size.D + channel)
    return dt


@njit(nogil=True, cache=True)
def _discretize(delta, weights, size, A):  # noqa: ANN001, ANN202
    """Return exp(Delta A) and what B u is multiplied by: Delta, or (exp(Delta A) - 1) / A (Eq. 4)."""
    exponent = delta * load(weights.A, A)
    if size.is_held:
        growth = exp2m1(exponent)
        return growth + splat(np.float32(1.0)), growth * load(weights.A_inverse, A)
    return exp2(exponent), delta


@njit(nogil=True, cache=True)
def scan_forward(rows, weights, size, task, y, states):  # noqa: ANN001, ANN201
    """Run one task's share of the recurrence, writing its part of `y` (B, L, D) in the inputs' dtype.

    `states` keeps the state before each chunk, (B, chunks, D / 16, N, 16), for the backward; empty: none is kept.
    """
    N, blocks, chunks = size.N, size.D // LANES, (size.L + CHUNK - 1) // CHUNK
    H = np.zeros((task.last - task.first) * N * LANES, np.float32)
    B, C = np.empty(CHUNK * N, np.float32), np.empty(CHUNK * N, np.float32)
    for chunk in range(chunks):
        start = chunk * CHUNK
        steps = min(CHUNK, size.L - start)
        _read_matrices(rows, weights, size, task.picture, start, steps, B, C)
        for block in range(task.first, task.last):
            channel, state, A = block * LANES, (block - task.first) * N * LANES, block * N * LANES
            if states.size:
                kept = ((task.picture * chunks + chunk) * blocks + block) * N * LANES
                states[kept : kept + N * LANES] = H[state : state + N * LANES]
            skip = load(weights.D, channel)
            for i in range(steps):
                row = (task.picture * size.L + _row(start + i, size)) * size.D + channel
                u = load(rows.u, row)
                delta = _step_size(load(rows.dt, row), weights, size, task.picture, channel)
                out = skip * u
                for n in range(N):
                    decay, hold = _discretize(delta, weights, size, A + n * LANES)
                    h = fma(decay, load(H, state + n * LANES), (hold * u) * splat(B[i * N + n]))
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
    """What the backward keeps of one chunk while it is in the cache.

    Attributes:
        B: prompted input matrices, (steps, N).
        C: prompted output matrices, (steps, N).
        H: one block's states, the first from before the chunk, (steps + 1, N, 16).
        decays: one block's decays, (steps, N, 16).
        deltas: one block's step sizes, (steps, 16).
        B_sums: gradient of B by lanes, summed over the blocks so far, (steps, N, 16).
        C_sums: gradient of C, likewise.
    """

    B: np.ndarray
    C: np.ndarray
    H: np.ndarray
    decays: np.ndarray
    deltas: np.ndarray
    B_sums: np.ndarray
    C_sums: np.ndarray


@njit(nogil=True, cache=True)
def _new_chunk(N: int) -> ScanChunk:
    wide = CHUNK * N * LANES
    return ScanChunk(
        np.empty(CHUNK * N, np.float32),
        np.empty(CHUNK * N, np.float32),
        np.empty(wide + N * LANES, np.float32),
        np.empty(wide, np.float32),
        np.empty(CHUNK * LANES, np.float32),
        np.empty(wide, np.float32),
        np.empty(wide, np.float32),
    )


@njit(nogil=True, cache=True)
def _replay(rows, weights, size, place, cache):  # noqa: ANN001, ANN202
    """Recompute a block's states, decays and step sizes inside a chunk, from the state before it."""
    picture, block, start, steps = place
    N, channel = size.N, block * LANES
    for i in range(steps):
        row = (picture * size.L + _row(start + i, size)) * size.D + channel
        delta = _step_size(load(rows.dt, row), weights, size, picture, channel)
        u = load(rows.u, row)
        store(cache.deltas, i * LANES, delta)
        for n in range(N):
            at = (i * N + n) * LANES
            decay, hold = _discretize(delta, weights, size, (block * N + n) * LANES)
            store(cache.decays, at, decay)
            store(cache.H, at + N * LANES, fma(decay, load(cache.H, at), (hold * u) * splat(cache.B[i * N + n])))


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _held_gradient_of_A(decay, hold, delta, weights, A):  # noqa: ANN001, ANN202
    """Return the derivative of (exp(Delta A) - 1) / A by A: (Delta exp(Delta A) - hold) / A."""
    return fma(delta, decay, hold * splat(np.float32(-1.0))) * load(weights.A_inverse, A)


@njit(nogil=True, cache=True)
def _adjoint(rows, weights, size, dy, gradients, place, cache, G):  # noqa: ANN001, ANN202
    """Run the adjoint recurrence backwards over one block's chunk; G (N, 16) is the gradient of the state.

    With g the gradient of h_i = decay h_{i-1} + hold B u: by hold g B u, by decay g h_{i-1}, by h_{i-1} g decay; hold
    is Delta, whose derivative is 1, or the integral over the step, whose derivative by Delta is the decay.
    """
    picture, block, start, steps = place
    N, channel = size.N, block * LANES
    at_channel = picture * size.D + channel
    skip = load(weights.D, channel)
    for i in range(steps - 1, -1, -1):
        row = (picture * size.L + _row(start + i, size)) * size.D + channel
        by_y, u, delta = load(dy, row), load(rows.u, row), load(cache.deltas, i * LANES)
        by_u, by_exponent, by_hold = skip * by_y, splat(np.float32(0.0)), splat(np.float32(0.0))
        for n in range(N):
            at, A = (i * N + n) * LANES, (block * N + n) * LANES
            by_A = picture * size.D * N + A
            B, decay = splat(cache.B[i * N + n]), load(cache.decays, at)
            g = fma(by_y, splat(cache.C[i * N + n]), load(G, n * LANES))
            g_decay = g * decay
            g_h = g_decay * load(cache.H, at)
            store(G, n * LANES, g_decay)
            store(cache.C_sums, at, fma(load(cache.H, at + N * LANES), by_y, load(cache.C_sums, at)))
            by_exponent = fma(g_h, load(weights.A, A), by_exponent)
            of_A = fma(g_h, delta, load(gradients.A, by_A))
            if size.is_held:
                _, hold = _discretize(delta, weights, size, A)
                of_A = fma(g * u * B, _held_gradient_of_A(decay, hold, delta, weights, A), of_A)
                by_hold = fma(g_decay, B, by_hold)
                by_u = fma(g * hold, B, by_u)
                store(cache.B_sums, at, fma(g, hold * u, load(cache.B_sums, at)))
            else:
                by_hold = fma(g, B, by_hold)
                store(cache.B_sums, at, fma(g, delta * u, load(cache.B_sums, at)))
            store(gradients.A, by_A, of_A)
        if not size.is_held:
            by_u = fma(delta, by_hold, by_u)
        store(gradients.u, row, by_u)
        store(gradients.D, at_channel, fma(u, by_y, load(gradients.D, at_channel)))
        by_delta = fma(by_exponent, splat(np.float32(LN_2)), u * by_hold)
        _write_step_gradient(rows, weights, size, gradients, place, row, by_delta)


@njit(nogil=True, cache=True)
def scan_backward(rows, weights, size, task, dy, states, gradients):  # noqa: ANN001, ANN201
    """Write one task's share of all gradients, given the gradient `dy` (B, L, D) of the output and the kept states."""
    N, blocks, chunks = size.N, size.D // LANES, (size.L + CHUNK - 1) // CHUNK
    pictures = gradients.D.size // size.D
    G = np.zeros((task.last - task.first, N * LANES), np.float32)
    cache = _new_chunk(N)
    for chunk in range(chunks - 1, -1, -1):
        start = chunk * CHUNK
        steps = min(CHUNK, size.L - start)
        _read_matrices(rows, weights, size, task.picture, start, steps, cache.B, cache.C)
        cache.B_sums[:], cache.C_sums[:] = 0.0, 0.0
        for block in range(task.first, task.last):
            place = (task.picture, block, start, steps)
            kept = ((task.picture * chunks + chunk) * blocks + block) * N * LANES
            cache.H[: N * LANES] = states[kept : kept + N * LANES]
            _replay(rows, weights, size, place, cache)
            _adjoint(rows, weights, size, dy, gradients, place, cache, G[block - task.first])
        for i in range(steps):
            row = ((task.group * pictures + task.picture) * size.L + _row(start + i, size)) * N
            for n in range(N):
                gradients.B[row + n] = lane_sum(load(cache.B_sums, (i * N + n) * LANES))
                gradients.C[row + n] = lane_sum(load(cache.C_sums, (i * N + n) * LANES))
