"""The selective scan in torch's scan operator, for programs that leave this package: torch.export, ONNX."""

import torch
import torch.nn.functional as F
from torch._higher_order_ops.scan import scan_op

# Steps of a part of an exported scan, which takes them one by one and all parts at once.
EXPORT_STEPS = 128


def _cut(x: torch.Tensor) -> torch.Tensor:
    """Cut a sequence into parts, the steps of a part foremost, (B, L, C) -> (steps, parts, B, C); zeros fill it up.

    There are always two parts or more: tracing binds a dimension of one to one.
    """
    parts = x.shape[1] // EXPORT_STEPS + 2
    padded = F.pad(x, (0, 0, 0, parts * EXPORT_STEPS - x.shape[1]))
    return padded.unflatten(1, (parts, EXPORT_STEPS)).permute(2, 1, 0, 3).contiguous()


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
    work = torch.promote_types(u.dtype, torch.float32)
    A, D, sequence = A.to(work), D.to(work), u.to(work)
    # The steps that fill up the last part are of size zero: they keep the state. The operator is called as it is,
    # because the function around it compiles, which neither symbolic strides nor the tests' time would bear.
    steps = [_cut(each) for each in (delta.to(work), B.to(work), sequence)]

    def advance(h: torch.Tensor, *step: torch.Tensor) -> torch.Tensor:
        delta, B, u = step[0][..., None], step[1][..., None, :], step[2][..., None]
        hold = torch.expm1(delta * step[-1]) / step[-1] if is_held else delta
        return torch.exp(delta * step[-1]) * h + hold * B * u

    def collect(h: torch.Tensor, *step: torch.Tensor) -> list[torch.Tensor]:
        return [advance(h, *step), h.new_zeros(1)]  # some of ONNX's tools stumble over scans without an output

    def carry(h: torch.Tensor, kept: torch.Tensor, added: torch.Tensor) -> list[torch.Tensor]:
        return [kept * h + added, h.clone()]

    def read(h: torch.Tensor, *step: torch.Tensor) -> list[torch.Tensor]:
        h = advance(h, *step)
        return [h, (h @ step[3][..., None]).squeeze(-1)]

    zero = A.new_zeros(*steps[0].shape[1:], A.shape[1])  # (parts, B, D, N)
    added, _ = scan_op(collect, [zero], steps, (A,))
    kept = torch.exp(steps[0].sum(0)[..., None] * A)
    _, starts = scan_op(carry, [A.new_zeros(len(u), *A.shape)], [kept, added], ())
    _, y = scan_op(read, [starts], [*steps, _cut(C.to(work))], (A,))
    y = y.permute(2, 1, 0, 3).flatten(1, 2)[:, : u.shape[1]]  # (steps, parts, B, D) -> (B, L, D)
    return (y + D * sequence).to(u.dtype)
