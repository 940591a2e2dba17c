"""The selective scan's kernels for GPUs, in Triton: one source for NVIDIA and AMD.

A program takes some channels of one chunk of time and goes step by step, all states of its channels in registers.
Softplus, its bias, the prompts and the skip D happen inside, a reversed scan reads its rows in reverse, and all
arithmetic is float32 whatever the inputs' dtypes are. Few sequences would not fill a card, so all chunks run at once,
in three passes:

1. `summarize_chunks`: what a chunk makes of a state of zeros, and the sum of its steps, by which states decay in it;
2. `carry_states`: from chunk to chunk, the state before each;
3. `scan_chunks`: the output.

The gradients take the same path backwards, with `backpropagate_chunks` in the third place. It recomputes a chunk's
states from the one before it: first every fourth, into memory, then the four between two of these, into registers.

Time runs in the order of the scan; only `_row_at` knows in which order rows lie. The decays A and all states are
(N, D) here, so that a warp reads neighbours in memory.
"""

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the scan backend 'triton' needs triton: pip install triton") from error

LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
# Else Triton would compile a kernel anew, for a second or two, wherever other sizes are one or multiples of 16, or
# other arrays begin at multiples of 16 bytes: for nearly every picture.
SIZES = ("L", "D", "N", "picture_stride", "row_stride", "chunks")
ARRAYS = (
    "x", "dt", "matrix", "A", "dt_bias", "alpha_delta", "alpha_matrix", "states", "spans", "first", "last", "u", "B",
    "C", "skip", "alpha_B", "alpha_C", "y", "dy", "adjoints", "replayed", "by_u", "by_dt", "by_B", "by_C", "by_A",
    "by_channel",
)  # fmt: skip
OF_ANY_SIZE = {"do_not_specialize": SIZES, "do_not_specialize_on_alignment": ARRAYS}


@triton.jit
def _place(L, D, CHUNK: tl.constexpr, D_BLOCK: tl.constexpr):
    """Return this program's picture, chunk, first step, number of steps and first channel."""
    blocks, chunks, program = tl.cdiv(D, D_BLOCK), tl.cdiv(L, CHUNK), tl.program_id(0)
    chunk = program // blocks % chunks
    steps = tl.minimum(CHUNK, L - chunk * CHUNK)
    return (program // (blocks * chunks)).to(tl.int64), chunk, chunk * CHUNK, steps, program % blocks * D_BLOCK


@triton.jit
def _states_and_channels(channel, N_BLOCK: tl.constexpr, D_BLOCK: tl.constexpr):
    """Return the numbers of the states and of this program's channels.

    They deny that they are contiguous: else Triton would load tiles of states in vectors, and a thread would hold some
    states of four channels in place of all states of one.
    """
    return tl.max_contiguous(tl.arange(0, N_BLOCK), 1), tl.max_contiguous(channel + tl.arange(0, D_BLOCK), 1)


@triton.jit
def _row_at(step, L, IS_REVERSED: tl.constexpr):
    """Return which row of the sequence a step of the recurrence takes."""
    row = step
    if IS_REVERSED:
        row = L - 1 - step
    return row.to(tl.int64)


@triton.jit
def _load_row(array, row, width, columns):
    """Load the columns of a row that exist, as float32, zeros for the others."""
    return tl.load(array + row * width + columns, mask=columns < width, other=0.0).to(tl.float32)


@triton.jit
def _load_matrix(array, row, n, N):
    """Load a row of B or C that begins at `row`, as float32."""
    return tl.load(array + row + n, mask=n < N, other=0.0).to(tl.float32)


@triton.jit
def _load_rates(A, n, d, D, N):
    """Load a tile of the decays in powers of two a unit of the step size."""
    tile = tl.load(A + n[:, None] * D + d[None, :], mask=(n[:, None] < N) & (d[None, :] < D), other=0.0)
    return tile * LOG2_E


@triton.jit
def _softplus(x):
    """Return log(1 + exp(x)), exact to float32's rounding also where it is small.

    With e = exp(-|x|) it is max(x, 0) + log(1 + e), and log(1 + e) = 2 artanh(s), s = e / (2 + e) up to 1/3: a series
    of s^2. A logarithm of 1 + e would lose all digits of a small e.
    """
    e = tl.exp2(tl.abs(x) * -LOG2_E)
    s = e / (2.0 + e)
    q = s * s
    series = 1.0 / 15
    for k in tl.static_range(6, -1, -1):
        series = series * q + 1.0 / (2 * k + 1)
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def _sigmoid(x):
    e = tl.exp2(tl.abs(x) * -LOG2_E)
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def _step_size(dt, bias, alpha):
    """Return the modulated step size (Eq. 9), alpha_Delta * softplus(dt + bias); without a bias dt itself."""
    return dt if bias is None else _softplus(dt + bias) * alpha


@triton.jit
def _advance(h, delta, u, B, rate):
    """Return the state after a step, exp(Delta A) h + Delta u B."""
    return tl.exp2(rate * delta[None, :]) * h + (delta * u)[None, :] * B[:, None]


@triton.jit(**OF_ANY_SIZE)
def summarize_chunks(
    x, dt, matrix, A, dt_bias, alpha_delta, alpha_matrix, states, spans, L, D, N, picture_stride, row_stride,
    CHUNK: tl.constexpr, D_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr,
    IS_REVERSED: tl.constexpr, IS_ADJOINT: tl.constexpr,
):  # fmt: skip
    """Scan a chunk from zeros: write its last state (B, chunks, N, D) and the sum of its steps (B, chunks, D).

    With `IS_ADJOINT` the gradients of the states are what is scanned, from the last step to the first: `x` is then the
    gradient of the output instead of u, `matrix` C instead of B.
    """
    picture, chunk, start, steps, channel = _place(L, D, CHUNK, D_BLOCK)
    n, d = _states_and_channels(channel, N_BLOCK, D_BLOCK)
    rate = _load_rates(A, n, d, D, N)
    bias = None if dt_bias is None else _load_row(dt_bias, 0, D, d)
    prompt, alpha = _load_row(alpha_delta, picture, D, d), _load_row(alpha_matrix, picture, N, n)
    state = tl.zeros([N_BLOCK, D_BLOCK], tl.float32)
    span = tl.zeros([D_BLOCK], tl.float32)
    for i in range(steps):
        row = _row_at(start + (steps - 1 - i if IS_ADJOINT else i), L, IS_REVERSED)
        delta = _step_size(_load_row(dt, picture * L + row, D, d), bias, prompt)
        x_row = _load_row(x, picture * L + row, D, d)
        factors = _load_matrix(matrix, picture * picture_stride + row * row_stride, n, N) * alpha
        if IS_ADJOINT:
            state = tl.exp2(rate * delta[None, :]) * (state + x_row[None, :] * factors[:, None])
        else:
            state = _advance(state, delta, x_row, factors, rate)
        span += delta
    place = picture * tl.cdiv(L, CHUNK) + chunk
    tl.store(spans + place * D + d, span, mask=d < D)
    tile = (place * N + n[:, None]) * D + d[None, :]
    tl.store(states + tile, state, mask=(n[:, None] < N) & (d[None, :] < D))


@triton.jit(**OF_ANY_SIZE)
def carry_states(
    first, last, states, spans, A, chunks, D, N,
    BLOCK: tl.constexpr, GROUP: tl.constexpr, IS_BACKWARDS: tl.constexpr,
):  # fmt: skip
    """Carry states from chunk to chunk: each of `states`, a chunk's own, becomes the one from before this chunk.

    Begins with `first` (B, N, D) and writes what comes out in the end to `last`. The chain waits for memory, not for
    arithmetic, so `GROUP` chunks are loaded at once.
    """
    parts = tl.cdiv(N * D, BLOCK)
    picture = (tl.program_id(0) // parts).to(tl.int64)
    at = tl.program_id(0) % parts * BLOCK + tl.arange(0, BLOCK)
    inside, d = at < N * D, at % D
    rate = tl.load(A + at, mask=inside, other=0.0) * LOG2_E
    h = tl.load(first + picture * N * D + at, mask=inside, other=0.0)
    for group in range(0, chunks, GROUP):
        own, decays = (), ()
        for k in tl.static_range(GROUP):
            chunk = picture * chunks + (chunks - 1 - group - k if IS_BACKWARDS else group + k)
            exists = inside & (group + k < chunks)
            own += (tl.load(states + chunk * N * D + at, mask=exists, other=0.0),)
            decays += (tl.exp2(rate * tl.load(spans + chunk * D + d, mask=exists, other=0.0)),)
        for k in tl.static_range(GROUP):
            chunk = picture * chunks + (chunks - 1 - group - k if IS_BACKWARDS else group + k)
            tl.store(states + chunk * N * D + at, h, mask=inside & (group + k < chunks))
            h = decays[k] * h + own[k]
    tl.store(last + picture * N * D + at, h, mask=inside)


@triton.jit(**OF_ANY_SIZE)
def scan_chunks(
    u, dt, B, C, A, skip, dt_bias, alpha_delta, alpha_B, alpha_C, states, y, L, D, N, picture_stride, row_stride,
    CHUNK: tl.constexpr, D_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr, IS_REVERSED: tl.constexpr,
):  # fmt: skip
    """Write a chunk's part of the output (B, L, D), from the state before it, of `states` (B, chunks, N, D)."""
    picture, chunk, start, steps, channel = _place(L, D, CHUNK, D_BLOCK)
    n, d = _states_and_channels(channel, N_BLOCK, D_BLOCK)
    rate = _load_rates(A, n, d, D, N)
    bias = None if dt_bias is None else _load_row(dt_bias, 0, D, d)
    prompt, skip_row = _load_row(alpha_delta, picture, D, d), _load_row(skip, 0, D, d)
    prompt_B, prompt_C = _load_row(alpha_B, picture, N, n), _load_row(alpha_C, picture, N, n)
    tile = ((picture * tl.cdiv(L, CHUNK) + chunk) * N + n[:, None]) * D + d[None, :]
    h = tl.load(states + tile, mask=(n[:, None] < N) & (d[None, :] < D), other=0.0)
    for i in range(steps):
        row = _row_at(start + i, L, IS_REVERSED)
        matrix_row = picture * picture_stride + row * row_stride
        delta = _step_size(_load_row(dt, picture * L + row, D, d), bias, prompt)
        u_row = _load_row(u, picture * L + row, D, d)
        h = _advance(h, delta, u_row, _load_matrix(B, matrix_row, n, N) * prompt_B, rate)
        C_row = _load_matrix(C, matrix_row, n, N) * prompt_C
        y_row = tl.sum(h * C_row[:, None], 0) + skip_row * u_row
        tl.store(y + (picture * L + row) * D + d, y_row, mask=d < D)


@triton.jit(**OF_ANY_SIZE)
def backpropagate_chunks(
    u, dt, B, C, A, skip, dt_bias, alpha_delta, alpha_B, alpha_C, dy, states, adjoints, replayed,
    by_u, by_dt, by_B, by_C, by_A, by_channel, L, D, N, picture_stride, row_stride,
    CHUNK: tl.constexpr, PART: tl.constexpr, D_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr, IS_REVERSED: tl.constexpr,
):  # fmt: skip
    """Write a chunk's part of all gradients, float32 but for `by_u` and `by_dt`.

    With g the gradient of h_i = decay h_{i-1} + Delta B u: by Delta B u and by decay g h_{i-1}, by h_{i-1} g decay.

    Reads the states before all chunks, and `adjoints`, the gradients of those after them, both (B, chunks, N, D).
    `replayed` (B, chunks, CHUNK / PART, N, D) is scratch. `by_B` and `by_C`, of the prompted matrices, are shares of
    the blocks of channels, (blocks, B, L, N); `by_A` is (B, chunks, N, D); `by_channel` holds those of D, dt_bias and
    alpha_Delta, (3, B, chunks, D).
    """
    picture, chunk, start, steps, channel = _place(L, D, CHUNK, D_BLOCK)
    n, d = tl.arange(0, N_BLOCK), channel + tl.arange(0, D_BLOCK)
    has_tile = (n[:, None] < N) & (d[None, :] < D)
    rate = _load_rates(A, n, d, D, N)
    bias = None if dt_bias is None else _load_row(dt_bias, 0, D, d)
    prompt, skip_row = _load_row(alpha_delta, picture, D, d), _load_row(skip, 0, D, d)
    prompt_B, prompt_C = _load_row(alpha_B, picture, N, n), _load_row(alpha_C, picture, N, n)
    chunks = tl.cdiv(L, CHUNK)
    place = picture * chunks + chunk
    tile, replay = n[:, None] * D + d[None, :], replayed + place * (CHUNK // PART) * N * D

    h = tl.load(states + place * N * D + tile, mask=has_tile, other=0.0)
    for i in range(steps):
        if i % PART == 0:
            tl.store(replay + i // PART * N * D + tile, h, mask=has_tile)
        row = _row_at(start + i, L, IS_REVERSED)
        delta = _step_size(_load_row(dt, picture * L + row, D, d), bias, prompt)
        B_row = _load_matrix(B, picture * picture_stride + row * row_stride, n, N) * prompt_B
        h = _advance(h, delta, _load_row(u, picture * L + row, D, d), B_row, rate)
    tl.debug_barrier()  # what was stored is loaded again, perhaps by other threads

    share = (channel // D_BLOCK * (tl.num_programs(0) // (tl.cdiv(D, D_BLOCK) * chunks)) + picture) * L
    g = tl.load(adjoints + place * N * D + tile, mask=has_tile, other=0.0)
    by_rate = tl.zeros([N_BLOCK, D_BLOCK], tl.float32)
    by_skip, by_bias = tl.zeros([D_BLOCK], tl.float32), tl.zeros([D_BLOCK], tl.float32)
    by_prompt = tl.zeros([D_BLOCK], tl.float32)
    parts = tl.cdiv(steps, PART)
    for p in range(parts):
        first = (parts - 1 - p) * PART
        h = tl.load(replay + first // PART * N * D + tile, mask=has_tile, other=0.0)
        kept = (h,)
        for k in tl.static_range(PART):
            row = _row_at(start + tl.minimum(first + k, steps - 1), L, IS_REVERSED)
            delta = _step_size(_load_row(dt, picture * L + row, D, d), bias, prompt)
            B_row = _load_matrix(B, picture * picture_stride + row * row_stride, n, N) * prompt_B
            h = _advance(h, delta, _load_row(u, picture * L + row, D, d), B_row, rate)
            kept += (h,)
        for k in tl.static_range(PART - 1, -1, -1):
            if first + k < steps:
                row = _row_at(start + first + k, L, IS_REVERSED)
                at, matrix_row = (picture * L + row) * D + d, picture * picture_stride + row * row_stride
                dt_row, u_row = _load_row(dt, picture * L + row, D, d), _load_row(u, picture * L + row, D, d)
                by_y = _load_row(dy, picture * L + row, D, d)
                B_row = _load_matrix(B, matrix_row, n, N) * prompt_B
                C_row = _load_matrix(C, matrix_row, n, N) * prompt_C
                delta = _step_size(dt_row, bias, prompt)
                g += C_row[:, None] * by_y[None, :]
                tl.store(by_B + (share + row) * N + n, tl.sum(g * (delta * u_row)[None, :], 1), mask=n < N)
                tl.store(by_C + (share + row) * N + n, tl.sum(kept[k + 1] * by_y[None, :], 1), mask=n < N)
                by_drive = tl.sum(g * B_row[:, None], 0)
                g *= tl.exp2(rate * delta[None, :])
                by_exponent = g * kept[k]
                by_rate += by_exponent * delta[None, :]
                by_delta = tl.sum(by_exponent * rate, 0) * LN_2 + u_row * by_drive
                by_skip += by_y * u_row
                tl.store(by_u + at, skip_row * by_y + delta * by_drive, mask=d < D)
                if bias is not None:
                    by_prompt += by_delta * _softplus(dt_row + bias)
                    by_delta *= prompt * _sigmoid(dt_row + bias)
                    by_bias += by_delta
                tl.store(by_dt + at, by_delta, mask=d < D)
    tl.store(by_A + place * N * D + tile, by_rate, mask=has_tile)
    all_chunks = tl.num_programs(0) // tl.cdiv(D, D_BLOCK)
    tl.store(by_channel + place * D + d, by_skip, mask=d < D)
    tl.store(by_channel + (all_chunks + place) * D + d, by_bias, mask=d < D)
    tl.store(by_channel + (2 * all_chunks + place) * D + d, by_prompt, mask=d < D)
