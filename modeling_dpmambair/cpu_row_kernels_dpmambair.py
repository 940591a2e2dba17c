"""Kernels over rows of channels for the processor: layer norm, layer norm with a SiLU gate, GELU gate; and gradients.

At the end are 3x3 depthwise convolutions with the activation that follows them, over pictures, without gradients.
Small models are bound by element-wise traffic: each of these is one pass over memory where separate operators make two
to five, and reads and writes float32 or bfloat16 as it comes, so that mixed precision costs no conversion passes.
All arithmetic is float32.
Widths are multiples of sixteen; rows may lie apart (a slice of wider rows).
"""

from typing import NamedTuple

import numpy as np

from .cpu_simd_dpmambair import (
    LANES,
    Float32x16,
    erf,
    exp2,
    fma,
    inlined,
    kernel,
    lane_sum,
    load,
    sigmoid,
    splat,
    store,
)

ONE = np.float32(1.0)
SQRT_HALF = np.float32(0.5**0.5)
# d/dx of the normal distribution function: exp(-x^2 / 2) / sqrt(2 pi), as a power of two.
DENSITY_EXPONENT = np.float32(-0.5 / np.log(2.0))
DENSITY_SCALE = np.float32((2.0 * np.pi) ** -0.5)


class RowShape(NamedTuple):
    """Sizes of one call: channels in a row, numbers between rows of the input and of the gate, added to variances."""

    width: int
    stride: int
    gate_stride: int
    eps: float


class RowTask(NamedTuple):
    """A share of the rows, from `first` to before `last`, and which of the partial sums it adds to."""

    first: int
    last: int
    slot: int


@kernel
def _standardize(x, at, shape):  # noqa: ANN001, ANN202
    """Return a row's mean and the inverse of its standard deviation."""
    total = splat(np.float32(0.0))
    for c in range(0, shape.width, LANES):
        total = total + load(x, at + c)
    mean = lane_sum(total) / np.float32(shape.width)
    squares = splat(np.float32(0.0))
    for c in range(0, shape.width, LANES):
        centred = load(x, at + c) + splat(-mean)
        squares = fma(centred, centred, squares)
    variance = lane_sum(squares) / np.float32(shape.width)
    return mean, ONE / np.sqrt(variance + np.float32(shape.eps))


@kernel
def norm_forward(x, weight, bias, shape, task, out):  # noqa: ANN001, ANN201
    """Write layer norm of the task's rows to `out`, dense rows."""
    for row in range(task.first, task.last):
        at = row * shape.stride
        mean, scale = _standardize(x, at, shape)
        for c in range(0, shape.width, LANES):
            standard = (load(x, at + c) + splat(-mean)) * splat(scale)
            store(out, row * shape.width + c, fma(standard, load(weight, c), load(bias, c)))


@kernel
def _finish_row(x, at, shape, row, mean, scale, by_standard, by_x):  # noqa: ANN001, ANN202
    """Turn a row's gradient by the standardised values (scratch, one row) into the gradient by the values."""
    total, weighted = splat(np.float32(0.0)), splat(np.float32(0.0))
    for c in range(0, shape.width, LANES):
        standard, gradient = (load(x, at + c) + splat(-mean)) * splat(scale), load(by_standard, c)
        total = total + gradient
        weighted = fma(gradient, standard, weighted)
    shift = lane_sum(total) / np.float32(shape.width)
    tilt = lane_sum(weighted) / np.float32(shape.width)
    for c in range(0, shape.width, LANES):
        standard = (load(x, at + c) + splat(-mean)) * splat(scale)
        centred = load(by_standard, c) + splat(-shift) + standard * splat(-tilt)
        store(by_x, row * shape.width + c, centred * splat(scale))


@kernel
def norm_backward(x, weight, by_out, shape, task, by_x, by_weight, by_bias, by_standard):  # noqa: ANN001, ANN201
    """Write the gradient by the task's rows, and add to its slot of the sums (slots, width) by weight and bias.

    `by_standard` is scratch, one row.
    """
    sums = task.slot * shape.width
    for row in range(task.first, task.last):
        at = row * shape.stride
        mean, scale = _standardize(x, at, shape)
        for c in range(0, shape.width, LANES):
            standard, gradient = (load(x, at + c) + splat(-mean)) * splat(scale), load(by_out, row * shape.width + c)
            store(by_weight, sums + c, fma(gradient, standard, load(by_weight, sums + c)))
            store(by_bias, sums + c, gradient + load(by_bias, sums + c))
            store(by_standard, c, gradient * load(weight, c))
        _finish_row(x, at, shape, row, mean, scale, by_standard, by_x)


@inlined
def _silu(x: Float32x16) -> Float32x16:
    """Return x times its sigmoid."""
    return x * sigmoid(x)


@kernel
def gated_norm_forward(x, gate, weight, bias, shape, task, out):  # noqa: ANN001, ANN201
    """Write layer norm times SiLU of the gate for the task's rows."""
    for row in range(task.first, task.last):
        at, at_gate = row * shape.stride, row * shape.gate_stride
        mean, scale = _standardize(x, at, shape)
        for c in range(0, shape.width, LANES):
            standard = (load(x, at + c) + splat(-mean)) * splat(scale)
            opening = load(gate, at_gate + c)
            normed = fma(standard, load(weight, c), load(bias, c))
            store(out, row * shape.width + c, normed * _silu(opening))


@kernel
def gated_norm_backward(x, gate, weight, bias, by_out, shape, task, by_x, by_gate, by_weight, by_bias, by_standard):  # noqa: ANN001, ANN201
    """Write the gradients by the task's rows of both inputs, and add to its slot of the sums by weight and bias.

    `by_standard` is scratch, one row.
    """
    sums = task.slot * shape.width
    for row in range(task.first, task.last):
        at, at_gate, dense = row * shape.stride, row * shape.gate_stride, row * shape.width
        mean, scale = _standardize(x, at, shape)
        for c in range(0, shape.width, LANES):
            standard = (load(x, at + c) + splat(-mean)) * splat(scale)
            gradient, opening = load(by_out, dense + c), load(gate, at_gate + c)
            share = sigmoid(opening)
            normed = fma(standard, load(weight, c), load(bias, c))
            # d/dg g s(g) = s + g s (1 - s)
            slope = share * fma(opening, splat(ONE) + share * splat(-ONE), splat(ONE))
            store(by_gate, dense + c, gradient * normed * slope)
            by_normed = gradient * opening * share
            store(by_weight, sums + c, fma(by_normed, standard, load(by_weight, sums + c)))
            store(by_bias, sums + c, by_normed + load(by_bias, sums + c))
            store(by_standard, c, by_normed * load(weight, c))
        _finish_row(x, at, shape, row, mean, scale, by_standard, by_x)


@inlined
def _normal_distribution(x: Float32x16) -> Float32x16:
    """Return the standard normal's distribution function, (1 + erf(x / sqrt 2)) / 2."""
    return fma(erf(x * splat(SQRT_HALF)), splat(np.float32(0.5)), splat(np.float32(0.5)))


@inlined
def _gelu(x: Float32x16) -> Float32x16:
    """Return x times the standard normal's distribution function there."""
    return x * _normal_distribution(x)


@kernel
def gelu_gate_forward(x, shape, task, out):  # noqa: ANN001, ANN201
    """Write GELU of the first half of each row times the second half; `shape.width` is one half's."""
    for row in range(task.first, task.last):
        at = row * shape.stride
        for c in range(0, shape.width, LANES):
            gate = load(x, at + c)
            store(out, row * shape.width + c, _gelu(gate) * load(x, at + shape.width + c))


@kernel
def gelu_gate_backward(x, by_out, shape, task, by_x):  # noqa: ANN001, ANN201
    """Write the gradient by both halves of the task's rows, dense rows of twice `shape.width`."""
    for row in range(task.first, task.last):
        at, dense = row * shape.stride, 2 * row * shape.width
        for c in range(0, shape.width, LANES):
            gate, value, gradient = load(x, at + c), load(x, at + shape.width + c), load(by_out, row * shape.width + c)
            below = _normal_distribution(gate)
            density = exp2(gate * gate * splat(DENSITY_EXPONENT)) * splat(DENSITY_SCALE)
            store(by_x, dense + c, gradient * value * fma(gate, density, below))
            store(by_x, dense + shape.width + c, gradient * gate * below)


class PictureShape(NamedTuple):
    """Sizes of the pictures of one call."""

    height: int
    columns: int
    channels: int


@inlined
def _convolve(x: np.ndarray, taps: np.ndarray, shape: PictureShape, pixel: tuple[int, int, int], c: int) -> Float32x16:
    """Return the convolution of sixteen channels from `c` on around a pixel: picture, row, column."""
    (picture, row, column), stride = pixel, shape.channels
    total = splat(np.float32(0.0))
    for i in range(max(row - 1, 0), min(row + 2, shape.height)):
        for j in range(max(column - 1, 0), min(column + 2, shape.columns)):
            seen = load(x, ((picture * shape.height + i) * shape.columns + j) * stride + c)
            total = fma(seen, load(taps, (3 * (i - row) + j - column + 4) * stride + c), total)
    return total


@inlined
def _convolve_four(
    x: np.ndarray, taps: np.ndarray, shape: PictureShape, pixel: tuple[int, int, int], c: int
) -> tuple[Float32x16, Float32x16, Float32x16, Float32x16]:
    """Return `_convolve` of a pixel and the three right of it, none of them in the first or the last column.

    Each number that is read then serves up to three of them.
    """
    (picture, row, column), stride = pixel, shape.channels
    sum0 = sum1 = sum2 = sum3 = splat(np.float32(0.0))
    for i in range(max(row - 1, 0), min(row + 2, shape.height)):
        at, tap = (
            ((picture * shape.height + i) * shape.columns + column - 1) * stride + c,
            3 * (i - row + 1) * stride + c,
        )
        x0, x1, x2 = load(x, at), load(x, at + stride), load(x, at + 2 * stride)
        x3, x4, x5 = load(x, at + 3 * stride), load(x, at + 4 * stride), load(x, at + 5 * stride)
        left, centre, right = load(taps, tap), load(taps, tap + stride), load(taps, tap + 2 * stride)
        sum0 = fma(x2, right, fma(x1, centre, fma(x0, left, sum0)))
        sum1 = fma(x3, right, fma(x2, centre, fma(x1, left, sum1)))
        sum2 = fma(x4, right, fma(x3, centre, fma(x2, left, sum2)))
        sum3 = fma(x5, right, fma(x4, centre, fma(x3, left, sum3)))
    return sum0, sum1, sum2, sum3


@kernel
def depthwise_silu_forward(x, taps, bias, shape, task, out):  # noqa: ANN001, ANN201
    """Write SiLU of the convolution plus bias for the task's rows of the output, counted through all pictures."""
    width = shape.channels
    for index in range(task.first, task.last):
        picture, row, column = index // shape.height, index % shape.height, 0
        while column < shape.columns:
            pixel, at = (picture, row, column), (index * shape.columns + column) * width
            if 0 < column < shape.columns - 4:
                for c in range(0, width, LANES):
                    shift = load(bias, c)
                    sum0, sum1, sum2, sum3 = _convolve_four(x, taps, shape, pixel, c)
                    store(out, at + c, _silu(sum0 + shift))
                    store(out, at + width + c, _silu(sum1 + shift))
                    store(out, at + 2 * width + c, _silu(sum2 + shift))
                    store(out, at + 3 * width + c, _silu(sum3 + shift))
                column += 4
            else:
                for c in range(0, width, LANES):
                    store(out, at + c, _silu(_convolve(x, taps, shape, pixel, c) + load(bias, c)))
                column += 1


@kernel
def depthwise_gate_forward(x, taps, shape, task, out):  # noqa: ANN001, ANN201
    """Write GELU of the first half of the convolved channels times the second for the task's rows of the output."""
    width = shape.channels // 2
    for index in range(task.first, task.last):
        picture, row, column = index // shape.height, index % shape.height, 0
        while column < shape.columns:
            pixel, at = (picture, row, column), (index * shape.columns + column) * width
            if 0 < column < shape.columns - 4:
                for c in range(0, width, LANES):
                    gate0, gate1, gate2, gate3 = _convolve_four(x, taps, shape, pixel, c)
                    sum0, sum1, sum2, sum3 = _convolve_four(x, taps, shape, pixel, width + c)
                    store(out, at + c, _gelu(gate0) * sum0)
                    store(out, at + width + c, _gelu(gate1) * sum1)
                    store(out, at + 2 * width + c, _gelu(gate2) * sum2)
                    store(out, at + 3 * width + c, _gelu(gate3) * sum3)
                column += 4
            else:
                for c in range(0, width, LANES):
                    gate = _convolve(x, taps, shape, pixel, c)
                    store(out, at + c, _gelu(gate) * _convolve(x, taps, shape, pixel, width + c))
                column += 1
