"""Time models with and without each CPU kernel: `python -m benchmarks.kernels`.

A kernel stays in the package where it pays five per cent of a restoration or of a training step. Each is replaced in
turn by the plain torch code that computes the same, in alternating rounds of one process and thread. One more row asks
whether `torch.compile` could take the place of the row kernels. The results file keeps one entry for each instruction
set, and a run replaces its own. A machine with AVX-512 does without it under `ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 NUMBA_CPU_NAME=haswell`.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import typer
from torch import nn
from tqdm import tqdm

from benchmarks.cost import MODELS
from benchmarks.files import RESULTS, write_text
from benchmarks.kernels_table import kernels_grid
from benchmarks.rendering import format_columns
from dpmambair.machine import describe_machine
from dpmambair.memory import keep_freed_memory
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel, layers_dpmambair, restore_tiled
from modeling_dpmambair.layers_dpmambair import DepthwiseConv2d, GatedNorm, RowNorm
from modeling_dpmambair.selective_scan_dpmambair import scan_backend

# Side of the picture that is restored; pictures of a training step and their side.
SIDES, BATCH, PATCHES = {"light": 512, "base": 128}, 2, {"light": 128, "base": 32}


def plain_norm(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """Compute what `RowNorm` does."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def plain_gated_norm(norm: nn.LayerNorm, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Compute what `GatedNorm` does."""
    return plain_norm(norm, x) * F.silu(gate)


def plain_gate(x: torch.Tensor) -> torch.Tensor:
    """Compute what `gelu_gate` does."""
    gate, value = x.chunk(2, dim=-1)
    return F.gelu(gate) * value


@contextmanager
def replaced(
    norm: Callable | None = None, gated_norm: Callable | None = None, gate: Callable | None = None
) -> Iterator:
    """Put other functions in the place of row kernels.

    Args:
        norm: for `RowNorm`.
        gated_norm: for `GatedNorm`.
        gate: for `gelu_gate`.
    """
    places = ((RowNorm, "forward", norm), (GatedNorm, "forward", gated_norm), (layers_dpmambair, "gelu_gate", gate))
    patches = [patch.object(place, name, other) for place, name, other in places if other]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def without_depthwise() -> AbstractContextManager:
    """Let torch convolve, and the row kernel gate what comes of it."""
    return patch.object(DepthwiseConv2d, "_has_kernel", lambda *_: False)


@contextmanager
def without_rows(compiled: bool) -> Iterator[None]:
    """Replace all row kernels and the depthwise ones, by plain torch or by what `torch.compile` makes of it."""
    change = partial(torch.compile, dynamic=True) if compiled else lambda function: function
    # One compilation for each width, of which the models have more than torch allows by itself.
    limit = torch._dynamo.config.patch(recompile_limit=64)
    with limit, without_depthwise(), replaced(*map(change, (plain_norm, plain_gated_norm, plain_gate))):
        yield


# What is left out, by the name of its row.
WAYS: dict[str, Callable[[], AbstractContextManager]] = {
    "nothing": nullcontext,
    "selective scan": partial(scan_backend, "chunked"),
    "layer norm": partial(replaced, norm=plain_norm),
    "gated norm": partial(replaced, gated_norm=plain_gated_norm),
    "GELU gate": partial(replaced, gate=plain_gate),
    "depthwise convolutions": without_depthwise,
    "all but the scan": partial(without_rows, compiled=False),
    "all but the scan, for torch.compile": partial(without_rows, compiled=True),
}


def make_calls(name: str) -> dict[str, Callable[[], Any]]:
    """Return what is timed of a model: `restoration` of a picture in strips, and a `step` of training, both float32.

    Args:
        name: of a configuration in `configuration/model`.
    """
    model = DPMambaIRModel(DPMambaIRConfig.from_json_file(MODELS / f"{name}.json"))
    picture = torch.rand(1, 3, SIDES[name], SIDES[name])
    degraded, clean = torch.rand(2, BATCH, 3, PATCHES[name], PATCHES[name])
    severity = torch.rand(BATCH, len(model.config.extractor_config.degradations))

    def step() -> None:
        model.train()(degraded, labels=clean, severity=severity).loss.backward()
        model.zero_grad()

    return {"restoration": lambda: restore_tiled(model.eval(), picture), "step": step}


def time_ways(call: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Time a call in all ways, in turn, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in tqdm(range(rounds + 1), leave=False, disable=None):  # the first compiles
        for name, way in WAYS.items():
            with way():
                start = time.process_time()
                call()
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    output: Annotated[Path, typer.Option(help="JSON file to renew.")] = RESULTS / "kernels.json",
) -> None:
    """Print what each kernel saves of a restoration and of a training step, and write it."""
    keep_freed_memory()
    torch.manual_seed(0)
    measured = {model: {kind: time_ways(call, rounds) for kind, call in make_calls(model).items()} for model in SIDES}
    machine = describe_machine()
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
    others = [each for each in known if each["machine"]["instructions"] != machine["instructions"]]
    results = sorted(
        [*others, {"machine": machine, "models": measured}], key=lambda each: each["machine"]["instructions"]
    )
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(kernels_grid(results)))


if __name__ == "__main__":
    app()
