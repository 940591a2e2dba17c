"""Kernels over rows of channels for the processor: the GELU gate and its gradient, and depthwise convolutions.

The 3x3 depthwise convolutions apply the activation that follows them, over pictures, without gradients. Small models
are bound by element-wise traffic: each of these is one pass over memory where separate operators make two to five, and
reads and writes float32 or bfloat16 as it comes. All arithmetic is float32. Channels are multiples of sixteen; rows of
the gate may lie apart (a slice of wider rows).
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
    load,
    sigmoid,
    splat,
    store,
)

SQRT_HALF = np.float32(0.5**0.5)
# d/dx of the normal distribution function: exp(-x^2 / 2) / sqrt(2 pi), as a power of two.
DENSITY_EXPONENT = np.float32(-0.5 / np.log(2.0))
DENSITY_SCALE = np.float32((2.0 * np.pi) ** -0.5)


class RowShape(NamedTuple):
    """Sizes of one call: channels in a row of the output, numbers between rows of the input."""

    width: int
    stride: int


class RowTask(NamedTuple):
    """A share of the rows, from `first` to before `last`."""

    first: int
    last: int


@inlined
def _silu(x: Float32x16) -> Float32x16:
    """Return x times its sigmoid."""
    return x * sigmoid(x)


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
