"""The selective scan in torch's scan operator, for programs that leave this package: torch.export, ONNX."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch._higher_order_ops.scan import scan_op

# Steps of a part of an exported scan, which takes them one by one and all parts at once.
EXPORT_STEPS = 256

Link = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class RowStates(NamedTuple):
    """States of a scan that goes on from tile to tile, at the beginnings of two rows.

    Attributes:
        entering: at the first row, and at the row `marks[0]` if there is such a one, (2, D, N).
        marks: the rows where states enter, leave and leave for the first row of the next tile, (3,), integers.
    """

    entering: torch.Tensor
    marks: torch.Tensor


def selective_scan_export(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    *,
    is_held: bool = False,
) -> torch.Tensor:
    """Run the recurrence by torch's scan operator, which torch.export, AOTInductor and ONNX know; without gradients.

    One operator of L steps would spend its time between the steps. So the sequence is cut into parts that advance
    side by side: once from zero, for what each part adds to the state; then the states are carried from part to part,
    each by one product; then again from the right states, for the outputs. That is exact, and stable, since no decay
    is ever divided by.

    Arguments and result as in `selective_scan_chunked`.
    """
    batch, length = u.shape[:2]
    # There are always two parts or more: tracing binds a dimension of one to one. The steps that fill up the last part
    # are of size zero: they keep the state.
    parts = length // EXPORT_STEPS + 2

    def cut(x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x, (0, 0, 0, parts * EXPORT_STEPS - length))
        return padded.unflatten(1, (parts, EXPORT_STEPS)).permute(2, 3, 1, 0).flatten(2)

    def link(kept: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        kept, added = (each.unflatten(-1, (parts, batch)).movedim(2, 0).contiguous() for each in (kept, added))
        _, starts = scan_op(_carry, [added.new_zeros(*A.shape, batch)], [kept, added], ())
        return starts.movedim(0, 2).flatten(2)

    work = torch.promote_types(u.dtype, torch.float32)
    sequences = [cut(each.to(work)) for each in (delta, B, u, C)]
    y = _scan_parts(sequences, A.to(work), link, is_held=is_held)
    y = y.unflatten(-1, (parts, batch)).permute(3, 2, 0, 1).flatten(1, 2)[:, :length]
    return (y + D.to(work) * u).to(u.dtype)


def selective_scan_rows(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    *,
    states: RowStates,
    is_held: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the recurrence over the rows of one picture, which are the parts that advance side by side.

    Args:
        u: input, (H, W, D), float32; the scan goes row by row.
        delta: step size, (H, W, D).
        A: continuous decay, (D, N).
        B: input matrix, (H, W, N).
        C: output matrix, (H, W, N).
        D: skip, (D,).
        states: what enters, and where states enter and leave.
        is_held: hold the input between steps.

    Returns:
        Output, (H, W, D), and the states that leave: for the first row of the next tile, and for its mark, (2, D, N).
    """
    rows = torch.arange(u.shape[0], device=u.device)
    enter, leave, following = states.marks
    first, seam = (is_there.to(u.dtype) for is_there in (rows == 0, (rows == enter) & (rows > 0)))
    leaving = []

    def carry(h: torch.Tensor, *step: torch.Tensor) -> list[torch.Tensor]:
        kept, added, first, seam, entering = step
        h = torch.where(first > 0, entering[0], torch.where(seam > 0, entering[1], h))
        return [kept * h + added, h.clone()]

    def link(kept: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        steps = [each.movedim(2, 0).contiguous() for each in (kept, added)]
        last, starts = scan_op(carry, [torch.zeros_like(A)], [*steps, first, seam], (states.entering,))
        every = torch.cat([starts, last[None]])
        leaving.append(every.index_select(0, torch.stack([following, leave]).clamp(max=u.shape[0])))
        return starts.movedim(0, 2)

    y = _scan_parts([each.permute(1, 2, 0) for each in (delta, B, u, C)], A, link, is_held=is_held)
    return y.permute(2, 0, 1) + D * u, leaving[0]


def _carry(h: torch.Tensor, kept: torch.Tensor, added: torch.Tensor) -> list[torch.Tensor]:
    return [kept * h + added, h.clone()]


def _scan_parts(sequences: list[torch.Tensor], A: torch.Tensor, link: Link, *, is_held: bool) -> torch.Tensor:
    """Scan parts side by side, the parts in the last dimension, which is long and therefore fast.

    Args:
        sequences: delta, B, u and C, (steps, D or N, parts).
        A: continuous decay, (D, N).
        link: makes the states at the beginnings of the parts of what each keeps and adds, (D, N, parts) all.
        is_held: hold the input between steps.

    Returns:
        Output without the skip, (steps, D, parts).
    """
    delta, B, u, C = (each.contiguous() for each in sequences)
    A = A[..., None]

    # The operator is called as it is, because the function around it compiles, which neither symbolic strides nor the
    # tests' time would bear.
    def advance(h: torch.Tensor, *step: torch.Tensor) -> torch.Tensor:
        delta, B, u, A = step[0][:, None], step[1], step[2][:, None], step[-1]
        hold = torch.expm1(delta * A) / A if is_held else delta
        return torch.exp(delta * A) * h + hold * u * B

    def collect(h: torch.Tensor, *step: torch.Tensor) -> list[torch.Tensor]:
        return [advance(h, *step), h.new_zeros(1)]  # some of ONNX's tools stumble over scans without an output

    def read(h: torch.Tensor, *step: torch.Tensor) -> list[torch.Tensor]:
        h = advance(h, *step)
        return [h, (h * step[3]).sum(1)]

    added, _ = scan_op(collect, [A.new_zeros(*A.shape[:2], u.shape[2])], [delta, B, u], (A,))
    starts = link(torch.exp(delta.sum(0)[:, None] * A), added)
    _, y = scan_op(read, [starts.contiguous()], [delta, B, u, C], (A,))
    return y
