"""Time models with and without each CPU kernel: `python -m benchmarks.kernels`.

A kernel stays in the package where it pays five per cent of a restoration or of a training step. Each is replaced in
turn by the plain torch code that computes the same, in alternating rounds of one process and thread; the last row asks
whether a gate that `torch.compile` made could take the kernels' place. The results file keeps one entry for each
instruction set, and a run replaces its own. A machine with AVX-512 does without it under `ATEN_CPU_CAPABILITY=avx2
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
from tqdm import tqdm

from benchmarks.cost import MODELS
from benchmarks.files import RESULTS, write_text
from benchmarks.kernels_table import kernels_grid, list_ways
from benchmarks.rendering import format_columns
from dpmambair.machine import describe_machine
from dpmambair.memory import keep_freed_memory
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel, layers_dpmambair, restore_tiled
from modeling_dpmambair.layers_dpmambair import DepthwiseConv2d
from modeling_dpmambair.selective_scan_dpmambair import scan_backend

# Side of the picture that is restored; pictures of a training step and their side.
SIDES, BATCH, PATCHES = {"light": 512, "base": 128}, 2, {"light": 128, "base": 32}


def plain_gate(x: torch.Tensor) -> torch.Tensor:
    """Compute what `gelu_gate` does."""
    gate, value = x.chunk(2, dim=-1)
    return F.gelu(gate) * value


def without_gate(gate: Callable[[torch.Tensor], torch.Tensor] = plain_gate) -> AbstractContextManager:
    """Gate with plain torch, or with what is given."""
    return patch.object(layers_dpmambair, "gelu_gate", gate)


def without_convolutions() -> AbstractContextManager:
    """Let torch convolve, and the kernel of the gate gate what comes of it."""
    return patch.object(DepthwiseConv2d, "_has_kernel", lambda *_: False)


@contextmanager
def without_both(*, compiled: bool) -> Iterator[None]:
    """Replace the convolutions by torch's, and the gate by plain torch or by what `torch.compile` makes of it."""
    gate = torch.compile(plain_gate, dynamic=True) if compiled else plain_gate
    # One compilation for each width, of which the models have more than torch allows by itself.
    limit = torch._dynamo.config.patch(recompile_limit=64)
    with limit, without_convolutions(), without_gate(gate):
        yield


# What is left out, by the name of its row.
WAYS: dict[str, Callable[[], AbstractContextManager]] = {
    "nothing": nullcontext,
    "selective scan": partial(scan_backend, "chunked"),
    "GELU gate": without_gate,
    "depthwise convolutions": without_convolutions,
    "gate and convolutions": partial(without_both, compiled=False),
    "gate and convolutions, the gate compiled by torch": partial(without_both, compiled=True),
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
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measured = {model: {kind: time_ways(call, rounds) for kind, call in make_calls(model).items()} for model in SIDES}
    machine = describe_machine()
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
    others = [
        each
        for each in known
        if each["machine"]["instructions"] != machine["instructions"] and list_ways(each) == list(WAYS)
    ]
    results = sorted(
        [*others, {"machine": machine, "models": measured}], key=lambda each: each["machine"]["instructions"]
    )
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(kernels_grid(results)))


if __name__ == "__main__":
    app()
