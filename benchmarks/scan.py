"""Time the selective scan beside its rivals: `python -m benchmarks.scan`.

All sides run in one process, in turn, on the same numbers and threads; medians count. Slow rivals stop at the length
that their time allows. mamba-ssm's reference joins where mamba-ssm is installed (its pure-Python build will do).
"""

import importlib
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.files import RESULTS, write_text
from benchmarks.machine import measure_memory, time_call
from benchmarks.rendering import format_columns
from benchmarks.scan_table import scan_grid
from dpmambair.files import replacing
from dpmambair.machine import describe_machine
from dpmambair.memory import keep_freed_memory
from modeling_dpmambair.selective_scan_dpmambair import selective_scan, selective_scan_chunked, selective_scan_loop

Scan = Callable[..., torch.Tensor]
# The sizes at which the targets are set: one picture of 256 x 256 at twice base's width.
D, N = 96, 16
LENGTHS = tuple(2**power for power in (12, 14, 16, 18, 20))
# Seconds below which a call is repeated.
SHORT = 0.1
# Longest sequence that each rival is asked for, steps.
LONGEST = {"ours": 2**20, "chunked": 2**18, "mamba-ssm reference": 2**16, "loop": 2**14}


def load_mamba_reference() -> Scan | None:
    """Import mamba-ssm's reference scan, with an empty module in the place of its CUDA extension; None if absent."""
    sys.modules.setdefault("selective_scan_cuda", types.ModuleType("selective_scan_cuda"))
    try:
        interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError:
        return None

    def scan(
        u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, *others: torch.Tensor
    ) -> torch.Tensor:
        C, D = others
        u, delta, B, C = (each.transpose(1, 2) for each in (u, delta, B, C))
        return interface.selective_scan_ref(u, delta, A, B, C, D).transpose(1, 2)

    return scan


def make_inputs(length: int) -> list[torch.Tensor]:
    """Draw u, delta, A, B, C and D of a scan of one picture, float32, with gradients on."""
    draw = torch.Generator().manual_seed(length)
    u, B, C = (torch.randn(1, length, width, generator=draw) for width in (D, N, N))
    delta = torch.rand(1, length, D, generator=draw) * 0.1 + 0.001
    A = -torch.arange(1.0, N + 1).repeat(D, 1)
    return [each.requires_grad_() for each in (u, delta, A, B, C, torch.ones(D))]


def time_forward(scan: Scan, inputs: list[torch.Tensor]) -> float:
    """Time a forward without gradients, seconds: the median of several where it is short, for the first is cold."""
    with torch.no_grad():
        seconds = [time_call(partial(scan, *inputs))]
        while sum(seconds) < SHORT:
            seconds.append(time_call(partial(scan, *inputs)))
    return statistics.median(seconds)


def time_step(scan: Scan, inputs: list[torch.Tensor]) -> tuple[float, float]:
    """Time a forward that keeps what its backward needs, and this backward, seconds."""
    start = time.perf_counter()
    y = scan(*inputs)
    between = time.perf_counter()
    seed = torch.ones_like(y)
    begin = time.perf_counter()
    torch.autograd.grad(y, inputs, seed)
    return between - start, time.perf_counter() - begin


def measure(scans: dict[str, Scan], length: int, repeats: int) -> list[dict[str, Any]]:
    """Time all scans that this length is not too much for, in turn.

    Args:
        scans: by name.
        length: steps.
        repeats: rounds after one that warms up.

    Returns:
        A record each: the forward's median in seconds and state updates (L D N) a second; of ours also a training
        step's forward and backward, and the most memory they hold over that of inputs, output and their gradients.
    """
    inputs = make_inputs(length)
    running = {name: scan for name, scan in scans.items() if length <= LONGEST[name]}
    forwards: dict[str, list[float]] = {name: [] for name in running}
    steps = []
    for scan in running.values():
        time_forward(scan, inputs)
    for _ in range(repeats):
        for name, scan in running.items():
            forwards[name].append(time_forward(scan, inputs))
            if name == "ours":  # the rivals' backward takes minutes and decides nothing
                steps.append(time_step(scan, inputs))
    records = []
    for name, spent in forwards.items():
        forward = statistics.median(spent)
        records.append({"scan": name, "L": length, "forward": forward, "updates": length * D * N / forward})
        if name == "ours":
            kept, backward = (statistics.median(each) for each in zip(*steps, strict=True))
            records[-1] |= {"training_forward": kept, "backward": backward}
            held = sum(each.nbytes for each in inputs)
            beyond = measure_memory(partial(propagate, running["ours"], inputs))
            if beyond is not None:
                records[-1]["memory"] = (held + beyond) / (2 * held + 2 * inputs[0].nbytes)
    return records


def propagate(scan: Scan, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Run a scan forwards and backwards; returns the gradients."""
    y = scan(*inputs)
    return torch.autograd.grad(y, inputs, torch.ones_like(y))


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Plot time over length for every scan, both axes logarithmic, into a PNG file."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in LONGEST:
        points = [(one["L"], one["forward"] * 1e3) for one in records if one["scan"] == name]
        if points:
            axes.loglog(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xlabel="steps L", ylabel="forward, ms", title=f"selective scan, D = {D}, N = {N}")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=120)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that warms up.")] = 5,
    longest: Annotated[int, typer.Option(min=1, help="Leave out longer sequences.")] = LENGTHS[-1],
    output: Annotated[Path, typer.Option(help="JSON file to write; the plot goes beside it.")] = RESULTS / "scan.json",
) -> None:
    """Print forward and backward times of every scan, and write them."""
    keep_freed_memory()  # of all sides alike, as in our commands
    scans = {"ours": selective_scan, "chunked": selective_scan_chunked, "loop": selective_scan_loop}
    reference = load_mamba_reference()
    if reference is not None:
        scans["mamba-ssm reference"] = reference
    lengths = [length for length in LENGTHS if length <= longest]
    records = [one for length in tqdm(lengths, disable=None) for one in measure(scans, length, repeats)]
    results = {"D": D, "N": N, "machine": describe_machine(), "records": records}
    write_text(output, json.dumps(results, indent=2) + "\n")
    draw(records, output.with_suffix(".png"))
    typer.echo(format_columns(scan_grid(results)))


if __name__ == "__main__":
    app()
