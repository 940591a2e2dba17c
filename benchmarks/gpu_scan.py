"""Time the selective scan on a GPU: `python -m benchmarks.gpu_scan`.

Triton's kernels beside mamba-ssm's where it is installed, and beside plain torch in chunks, at the sizes of training
and of restoring. Beside the times stand two memory rates: of the bytes that any scan has to move, and of those that
Triton's three passes move where no cache helps. Not run on a card yet.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks.files import RESULTS, write_text
from benchmarks.rendering import format_columns
from dpmambair.machine import describe_machine
from modeling_dpmambair.selective_scan_dpmambair import (
    ScanPrompts,
    prompted_selective_scan,
    scan_backend,
    selective_scan_fn,
)
from modeling_dpmambair.triton_scan_dpmambair import CHUNK, D_BLOCK, PART


class ScanShape(NamedTuple):
    """B pictures of L steps, D channels, N states."""

    B: int
    L: int
    D: int
    N: int


SHAPES = {
    "light, 64 patches of 128, 1/4": ScanShape(64, 1024, 96, 8),
    "light, 64 patches of 128, 1/8": ScanShape(64, 256, 192, 8),
    "light, 1 picture of 2 megapixels, 1/4": ScanShape(1, 131072, 96, 8),
    "base, 1 picture of 256, level 1": ScanShape(1, 65536, 96, 32),
    "base, 8 patches of 128, level 1": ScanShape(8, 16384, 96, 32),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WARM_UP = 3
# Of float32, which states and sums of gradients are in.
WIDE = 4


def least_bytes(shape: ScanShape, width: int) -> dict[str, int]:
    """Return what any scan has to move: each sequence once, in or out.

    Args:
        shape: of the scan.
        width: bytes of a number of the sequences.
    """
    rows, matrix_rows = (shape.B * shape.L * each * width for each in (shape.D, shape.N))
    # Forward u, dt, B, C in and y out; backward these and dy in, and the gradients of all four out.
    return {"forward": 3 * rows + 2 * matrix_rows, "backward": 5 * rows + 4 * matrix_rows}


def triton_bytes(shape: ScanShape, width: int) -> dict[str, int]:
    """Return what Triton's passes move if no cache helps between them; matrices count once for each block of channels.

    Args:
        shape: of the scan.
        width: bytes of a number of the sequences.
    """
    chunks, blocks = -(-shape.L // CHUNK), -(-shape.D // D_BLOCK)
    rows = shape.B * shape.L * shape.D * width
    matrix_rows = shape.B * shape.L * shape.N * blocks
    states = shape.B * chunks * shape.N * shape.D * WIDE
    # The first pass reads two sequences and a matrix and writes states, the second reads and writes these.
    carried = 2 * rows + matrix_rows * width + 3 * states
    forward = carried + 3 * rows + 2 * matrix_rows * width + states
    # u, dt, B three times (replays), dy and C once; scratch in and out; gradients out, those of matrices in shares.
    replayed = 2 * CHUNK // PART * states
    backward = carried + (3 * 2 + 3) * rows + 4 * matrix_rows * width + replayed + 3 * states + 2 * matrix_rows * WIDE
    return {"forward": forward, "backward": backward}


def make_inputs(shape: ScanShape, dtype: torch.dtype, device: str) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Draw u, dt, A, B, C and D with gradients on, and what the scan takes by name.

    Args:
        shape: of the scan.
        dtype: of the sequences.
        device: where to.
    """
    draw = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, device=device)

    u, dt = (normal(shape.B, shape.L, shape.D).to(dtype) for _ in range(2))
    B, C = (normal(shape.B, shape.L, shape.N).to(dtype) for _ in range(2))
    A = -torch.arange(1.0, shape.N + 1, device=device).repeat(shape.D, 1)
    prompts = ScanPrompts(*(torch.ones(shape.B, width, device=device) for width in (shape.D, shape.N, shape.N)))
    tensors = [each.requires_grad_() for each in (u, dt, A, B, C, normal(shape.D))]
    return tensors, {"dt_bias": normal(shape.D) - 4, "prompts": prompts}


def time_on_card(call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of a call on the card, by its own clock.

    Args:
        call: what to time.
        repeats: calls that count, after up to three that warm up.
    """
    for _ in range(min(WARM_UP, repeats)):
        call()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def measure(shape: ScanShape, dtype: torch.dtype, backend: str, repeats: int) -> dict[str, float]:
    """Time one implementation's forward without gradients, and its backward, seconds.

    Args:
        shape: of the scan.
        dtype: of the sequences.
        backend: as `scan_backend` names it.
        repeats: calls that count.
    """
    tensors, kind = make_inputs(shape, dtype, "cuda")
    with scan_backend(backend):
        with torch.no_grad():
            forward = time_on_card(lambda: prompted_selective_scan(*tensors, **kind), repeats)
        y = prompted_selective_scan(*tensors, **kind)
        seed = torch.ones_like(y)
        backward = time_on_card(lambda: torch.autograd.grad(y, tensors, seed, retain_graph=True), repeats)
    return {"forward": forward, "backward": backward}


def gpu_scan_grid(results: dict[str, Any]) -> list[list[str]]:
    """Bring the times into rows.

    Args:
        results: what `main` wrote.
    """
    rows = [["size", "dtype", "scan", "pass", "ms", "least GB/s", "passes' GB/s"]]
    for one in results["records"]:
        for part in ("forward", "backward"):
            seconds = one["seconds"][part]
            rates = [f"{one['least'][part] / seconds / 1e9:.0f}"]
            rates.append(f"{one['moved'][part] / seconds / 1e9:.0f}" if one["scan"] == "triton" else "-")
            rows.append([one["size"], one["dtype"], one["scan"], part, f"{seconds * 1e3:.3f}", *rates])
    return rows


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    repeats: Annotated[int, typer.Option(min=1, help="Calls that count.")] = 20,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "gpu_scan.json",
) -> None:
    """Print times and memory rates of every scan on this card, and write them."""
    if not torch.cuda.is_available():
        raise typer.BadParameter("`device` must be a GPU, got none; run benchmarks.scan on a processor")
    backends = ["triton", *(["mamba_ssm"] if selective_scan_fn else []), "chunked"]
    records = []
    for size, shape in SHAPES.items():
        for dtype, kind in DTYPES.items():
            sizes = {"least": least_bytes(shape, kind.itemsize), "moved": triton_bytes(shape, kind.itemsize)}
            for backend in backends:
                count = 1 if backend == "chunked" else repeats
                seconds = measure(shape, kind, backend, count)
                records.append({"size": size, "dtype": dtype, "scan": backend, "seconds": seconds, **sizes})
                typer.echo(f"{size}, {dtype}, {backend}: {seconds}")
    results = {"machine": describe_machine(torch.cuda.get_device_name()), "records": records}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(gpu_scan_grid(results)))


if __name__ == "__main__":
    app()
