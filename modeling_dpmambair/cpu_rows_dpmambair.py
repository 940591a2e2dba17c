"""Layer norm, gated layer norm and GELU gate on the processor as torch operators with autograd.

All take rows (R, C) of float32 or bfloat16, C a multiple of sixteen, dense or a slice of wider rows, and float32
weights; what they return is dense. The depthwise convolutions at the end take pictures, and have no gradients.
"""

from functools import partial
from typing import Any

import numpy as np
import torch

from .cpu_row_kernels_dpmambair import (
    PictureShape,
    RowShape,
    RowTask,
    depthwise_gate_forward,
    depthwise_silu_forward,
    gated_norm_backward,
    gated_norm_forward,
    gelu_gate_backward,
    gelu_gate_forward,
    norm_backward,
    norm_forward,
)
from .cpu_threads_dpmambair import flat, run_tasks
from .operators_dpmambair import differentiate, operator_name

# Rows that one task takes at least: fewer would cost more in hand-over than they save.
LEAST_ROWS = 128


def _share_rows(rows: int, least: int = LEAST_ROWS) -> list[RowTask]:
    count = max(1, min(torch.get_num_threads(), rows // least))
    return [RowTask(rows * slot // count, rows * (slot + 1) // count, slot) for slot in range(count)]


def _scratch_row(_: RowTask, width: int) -> tuple[np.ndarray]:
    return (np.empty(width, np.float32),)


@torch.library.custom_op(operator_name("layer_norm"), mutates_args=(), device_types="cpu")
def layer_norm_operator(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """Normalise each row, then scale and shift: (R, C) in, (R, C) of `dtype` out."""
    out = x.new_empty(x.shape, dtype=dtype)
    inputs = (flat(x), flat(weight), flat(bias), RowShape(x.shape[1], x.stride(0), 0, eps))
    run_tasks(norm_forward, _share_rows(len(x)), inputs, (flat(out),))
    return out


@layer_norm_operator.register_fake
def _(x, weight, bias, eps, dtype):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape, dtype=dtype)


@torch.library.custom_op(operator_name("layer_norm_backward"), mutates_args=(), device_types="cpu")
def layer_norm_backward_operator(
    by_out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of rows, weight and bias."""
    tasks = _share_rows(len(x))
    by_x = x.new_empty(x.shape)
    by_weight, by_bias = (weight.new_zeros(len(tasks), x.shape[1]) for _ in range(2))
    inputs = (flat(x), flat(weight), flat(by_out.contiguous()), RowShape(x.shape[1], x.stride(0), 0, eps))
    scratch = partial(_scratch_row, width=x.shape[1])
    run_tasks(norm_backward, tasks, inputs, (flat(by_x), flat(by_weight), flat(by_bias)), scratch)
    return by_x, by_weight.sum(0), by_bias.sum(0)


@layer_norm_backward_operator.register_fake
def _(by_out, x, weight, eps):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


layer_norm_cpu_backward = differentiate(layer_norm_backward_operator)


def _keep_norm(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    x, weight, _, ctx.eps, _ = inputs
    ctx.save_for_backward(x, weight)


def _propagate_norm(ctx: Any, by_out: torch.Tensor) -> tuple:
    return (*layer_norm_cpu_backward(by_out, *ctx.saved_tensors, ctx.eps), None, None)


layer_norm_operator.register_autograd(_propagate_norm, setup_context=_keep_norm)
layer_norm_cpu = differentiate(layer_norm_operator, _keep_norm, _propagate_norm)


@torch.library.custom_op(operator_name("gated_layer_norm"), mutates_args=(), device_types="cpu")
def gated_layer_norm_operator(
    x: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Normalise each row, scale and shift, times SiLU of the gate: rows (R, C) of `x`'s dtype."""
    out = x.new_empty(x.shape)
    shape = RowShape(x.shape[1], x.stride(0), gate.stride(0), eps)
    inputs = (flat(x), flat(gate), flat(weight), flat(bias), shape)
    run_tasks(gated_norm_forward, _share_rows(len(x)), inputs, (flat(out),))
    return out


@gated_layer_norm_operator.register_fake
def _(x, gate, weight, bias, eps):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape)


@torch.library.custom_op(operator_name("gated_layer_norm_backward"), mutates_args=(), device_types="cpu")
def gated_layer_norm_backward_operator(
    by_out: torch.Tensor, x: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of rows, gate, weight and bias."""
    tasks = _share_rows(len(x))
    by_x, by_gate = x.new_empty(x.shape), gate.new_empty(gate.shape)
    by_weight, by_bias = (weight.new_zeros(len(tasks), x.shape[1]) for _ in range(2))
    shape = RowShape(x.shape[1], x.stride(0), gate.stride(0), eps)
    inputs = (flat(x), flat(gate), flat(weight), flat(bias), flat(by_out.contiguous()), shape)
    scratch = partial(_scratch_row, width=x.shape[1])
    run_tasks(gated_norm_backward, tasks, inputs, (flat(by_x), flat(by_gate), flat(by_weight), flat(by_bias)), scratch)
    return by_x, by_gate, by_weight.sum(0), by_bias.sum(0)


@gated_layer_norm_backward_operator.register_fake
def _(by_out, x, gate, weight, bias, eps):  # noqa: ANN001, ANN202
    return tuple(each.new_empty(each.shape) for each in (x, gate, weight, bias))


gated_layer_norm_cpu_backward = differentiate(gated_layer_norm_backward_operator)


def _keep_gated_norm(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _propagate_gated_norm(ctx: Any, by_out: torch.Tensor) -> tuple:
    return (*gated_layer_norm_cpu_backward(by_out, *ctx.saved_tensors, ctx.eps), None)


gated_layer_norm_operator.register_autograd(_propagate_gated_norm, setup_context=_keep_gated_norm)
gated_layer_norm_cpu = differentiate(gated_layer_norm_operator, _keep_gated_norm, _propagate_gated_norm)


@torch.library.custom_op(operator_name("gelu_gate"), mutates_args=(), device_types="cpu")
def gelu_gate_operator(x: torch.Tensor) -> torch.Tensor:
    """Return GELU of the first half of each row times the second half: (R, 2 C) in, (R, C) out."""
    out = x.new_empty(x.shape[0], x.shape[1] // 2)
    shape = RowShape(out.shape[1], x.stride(0), 0, 0.0)
    run_tasks(gelu_gate_forward, _share_rows(len(x)), (flat(x), shape), (flat(out),))
    return out


@gelu_gate_operator.register_fake
def _(x):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@torch.library.custom_op(operator_name("gelu_gate_backward"), mutates_args=(), device_types="cpu")
def gelu_gate_backward_operator(by_out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the gradient of both halves of the rows."""
    by_x = x.new_empty(x.shape)
    shape = RowShape(x.shape[1] // 2, x.stride(0), 0, 0.0)
    run_tasks(gelu_gate_backward, _share_rows(len(x)), (flat(x), flat(by_out.contiguous()), shape), (flat(by_x),))
    return by_x


@gelu_gate_backward_operator.register_fake
def _(by_out, x):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape)


gelu_gate_cpu_backward = differentiate(gelu_gate_backward_operator)


def _keep_gelu_gate(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _propagate_gelu_gate(ctx: Any, by_out: torch.Tensor) -> torch.Tensor:
    return gelu_gate_cpu_backward(by_out, *ctx.saved_tensors)


gelu_gate_operator.register_autograd(_propagate_gelu_gate, setup_context=_keep_gelu_gate)
gelu_gate_cpu = differentiate(gelu_gate_operator, _keep_gelu_gate, _propagate_gelu_gate)


def _shape_of(x: torch.Tensor) -> tuple[PictureShape, list[RowTask]]:
    pictures, height, columns, channels = x.shape
    least = -(-LEAST_ROWS // columns)  # rows of the picture here, each of them `columns` rows of channels
    return PictureShape(height, columns, channels), _share_rows(pictures * height, least)


def _taps_of(weight: torch.Tensor) -> np.ndarray:
    return flat(weight.float().permute(2, 3, 1, 0).contiguous())  # (C, 1, 3, 3) -> (3, 3, 1, C)


@torch.library.custom_op(operator_name("depthwise_silu"), mutates_args=(), device_types="cpu")
def depthwise_silu_operator(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return SiLU of a 3x3 depthwise convolution, (B, H, W, C) in and out."""
    x = x.contiguous()
    out = torch.empty_like(x)
    shape, tasks = _shape_of(x)
    run_tasks(depthwise_silu_forward, tasks, (flat(x), _taps_of(weight), flat(bias.float()), shape), (flat(out),))
    return out


@depthwise_silu_operator.register_fake
def _(x, weight, bias):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape)


depthwise_silu_cpu = differentiate(depthwise_silu_operator)


@torch.library.custom_op(operator_name("depthwise_gate"), mutates_args=(), device_types="cpu")
def depthwise_gate_operator(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the GELU gate of a 3x3 depthwise convolution: (B, H, W, 2 C) in, (B, H, W, C) out."""
    x = x.contiguous()
    out = x.new_empty(*x.shape[:3], x.shape[3] // 2)
    shape, tasks = _shape_of(x)
    run_tasks(depthwise_gate_forward, tasks, (flat(x), _taps_of(weight), shape), (flat(out),))
    return out


@depthwise_gate_operator.register_fake
def _(x, weight):  # noqa: ANN001, ANN202
    return x.new_empty(*x.shape[:3], x.shape[3] // 2)


depthwise_gate_cpu = differentiate(depthwise_gate_operator)
