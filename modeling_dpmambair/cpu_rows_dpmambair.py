"""GELU gate and depthwise convolutions on the processor as torch operators; the gate alone has autograd.

The gate takes rows (R, 2 C) of float32 or bfloat16, C a multiple of sixteen, dense or a slice of wider rows; what it
returns is dense.
"""

from typing import Any

import numpy as np
import torch

from .cpu_row_kernels_dpmambair import (
    PictureShape,
    RowShape,
    RowTask,
    depthwise_gate_forward,
    depthwise_silu_forward,
    gelu_gate_backward,
    gelu_gate_forward,
)
from .cpu_threads_dpmambair import flat, run_tasks
from .operators_dpmambair import differentiate, operator_name

# Rows that one task takes at least: fewer would cost more in hand-over than they save.
LEAST_ROWS = 128


def _share_rows(rows: int, least: int = LEAST_ROWS) -> list[RowTask]:
    count = max(1, min(torch.get_num_threads(), rows // least))
    return [RowTask(rows * slot // count, rows * (slot + 1) // count) for slot in range(count)]


@torch.library.custom_op(operator_name("gelu_gate"), mutates_args=(), device_types="cpu")
def gelu_gate_operator(x: torch.Tensor) -> torch.Tensor:
    """Return GELU of the first half of each row times the second half: (R, 2 C) in, (R, C) out."""
    out = x.new_empty(x.shape[0], x.shape[1] // 2)
    shape = RowShape(out.shape[1], x.stride(0))
    run_tasks(gelu_gate_forward, _share_rows(len(x)), (flat(x), shape), (flat(out),))
    return out


@gelu_gate_operator.register_fake
def _(x):  # noqa: ANN001, ANN202
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@torch.library.custom_op(operator_name("gelu_gate_backward"), mutates_args=(), device_types="cpu")
def gelu_gate_backward_operator(by_out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the gradient of both halves of the rows."""
    by_x = x.new_empty(x.shape)
    shape = RowShape(x.shape[1] // 2, x.stride(0))
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
