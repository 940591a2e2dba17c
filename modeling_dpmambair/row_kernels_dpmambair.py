"""Kernels over rows of channels for the processor: layer norm, layer norm with a SiLU gate, GELU gate; and gradients.

At the end are 3x3 depthwise convolutions with the activation that follows them, over pictures, without gradients.
Small models are bound by element-wise traffic: each of these is one pass over memory where separate operators make two
to five, and reads and writes float32 or bfloat16 as it comes, so that mixed precision costs no conversion passes.
All arithmetic is float32.
Widths are multiples of sixteen; rows may lie apart (a slice of wider rows).
"""

from typing import NamedTuple

import numpy as np

from .lanes_dpmambair import LANES, Float32x16, erf, exp2, fma, inlined, kernel, lane_sum, load, sigmoid, splat, store

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
            store(out, row * shape.width + c, normed * opening * sigmoid(opening))


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


@kernel
def gelu_gate_forward(x, shape, task, out):  # noqa: ANN001, ANN201
    """Write GELU of the first half of each row times the second half; `shape.width` is one half's."""
    for row in range(task.first, task.last):
        at = row * shape.stride
        for c in range(0, shape.width, LANES):
            gate = load(x, at + c)
            store(out, row * shape.width + c, gate * _normal_distribution(gate) * load(x, at + shape.width + c))


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
    """Sizes of one call: rows, columns and channels of the input, rows of the output, and the first of these."""

    height: int
    columns: int
    channels: int
    rows: int
    first_row: int


@inlined
def _taps_on_picture(shape: PictureShape, row: int, column: int) -> tuple[int, int, int, int]:
    """Return which rows and columns of taps around a pixel lie on the picture: from, to before, from, to before."""
    above, below = max(0, 1 - row), min(3, shape.height + 1 - row)
    return above, below, max(0, 1 - column), min(3, shape.columns + 1 - column)


@inlined
def _convolve(
    x: np.ndarray, taps: np.ndarray, shape: PictureShape, corner: int, on_picture: tuple[int, int, int, int], c: int
) -> Float32x16:
    """Return the convolution of sixteen channels from `c` on; `corner` is where the first tap's pixel lies in `x`."""
    total, stride = splat(np.float32(0.0)), shape.channels
    top, bottom, left, right = on_picture
    if bottom - top + right - left == 6:  # all nine: the compiler unrolls what it can count
        for i in range(3):
            for j in range(3):
                seen = load(x, corner + (i * shape.columns + j) * stride + c)
                total = fma(seen, load(taps, (3 * i + j) * stride + c), total)
    else:
        for i in range(top, bottom):
            for j in range(left, right):
                seen = load(x, corner + (i * shape.columns + j) * stride + c)
                total = fma(seen, load(taps, (3 * i + j) * stride + c), total)
    return total


@kernel
def depthwise_silu_forward(x, taps, bias, shape, task, out):  # noqa: ANN001, ANN201
    """Write SiLU of the convolution plus bias for the task's rows of the output, counted through all pictures."""
    for index in range(task.first, task.last):
        picture, row = index // shape.rows, shape.first_row + index % shape.rows
        for column in range(shape.columns):
            corner = ((picture * shape.height + row - 1) * shape.columns + column - 1) * shape.channels
            on_picture, at = _taps_on_picture(shape, row, column), (index * shape.columns + column) * shape.channels
            for c in range(0, shape.channels, LANES):
                convolved = _convolve(x, taps, shape, corner, on_picture, c) + load(bias, c)
                store(out, at + c, convolved * sigmoid(convolved))


@kernel
def depthwise_gate_forward(x, taps, shape, task, out):  # noqa: ANN001, ANN201
    """Write GELU of the first half of the convolved channels times the second for the task's rows of the output."""
    width = shape.channels // 2
    for index in range(task.first, task.last):
        picture, row = index // shape.rows, shape.first_row + index % shape.rows
        for column in range(shape.columns):
            corner = ((picture * shape.height + row - 1) * shape.columns + column - 1) * shape.channels
            on_picture, at = _taps_on_picture(shape, row, column), (index * shape.columns + column) * width
            for c in range(0, width, LANES):
                gate = _convolve(x, taps, shape, corner, on_picture, c)
                value = _convolve(x, taps, shape, corner, on_picture, width + c)
                store(out, at + c, gate * _normal_distribution(gate) * value)
