"""Show where a training step of the light model spends its time: `python -m benchmarks.train_step --clean DIR`.

The step is of the model in `configuration/model/light.json`: one patch of 192 x 192, as its recipe draws them first,
float32 (bfloat16 where the CPU computes in it), frozen extractor, AdamW. Its floor is an estimate: what its matrix
products and convolutions take at the measured rate of a large product, plus one pass over all that its operators
allocate at the measured rate of a copy.
"""

import itertools
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.cost import MODELS
from benchmarks.files import RESULTS, write_text
from benchmarks.machine import measure_ceiling, time_call
from benchmarks.rendering import format_columns
from dataset_scripts import DegradedPatches, load_clean_photographs
from dpmambair.machine import describe_machine
from dpmambair.memory import keep_freed_memory
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel
from modeling_dpmambair.restorer_dpmambair import is_bfloat16_faster

RECIPE = MODELS.parent / "train" / "light_cpu_restorer.json"
BATCH, PATCH = 1, 192
# Operators that the profile lists by name; the rest is summed up.
LISTED = 12
COPIED_BYTES = 2**28

Batch = dict[str, torch.Tensor]


class Trainer:
    """The light restorer with its optimiser, whose `step` is what training repeats.

    Args:
        dtype: in which the forward runs, by autocast where it is not float32.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        settings = json.loads((MODELS / "light.json").read_text(encoding="utf-8"))
        settings |= json.loads(RECIPE.read_text(encoding="utf-8"))["model"]["overrides"]
        self.model, self.dtype = DPMambaIRModel(DPMambaIRConfig.from_dict(settings)).train(), dtype
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step(self, batch: Batch) -> None:
        """Run one step on degraded and clean patches."""
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            loss = self.model(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def load_batches(clean: Path, workers: int) -> DataLoader:
    """Draw batches as training does, in worker processes."""
    patches = DegradedPatches(load_clean_photographs(clean), PATCH)
    return DataLoader(patches, batch_size=BATCH, num_workers=workers, drop_last=True, persistent_workers=True)


def measure_waiting(trainer: Trainer, loader: DataLoader, steps: int) -> dict[str, float]:
    """Train for some steps and tell how long each waits for its batch, and takes once it is there.

    Returns:
        `step_seconds` and `waiting_seconds`, medians, and `waiting_share` of the whole.
    """
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    waiting, working = [], []
    for _ in tqdm(range(steps), disable=None):
        start = time.perf_counter()
        batch = next(batches)
        waiting.append(time.perf_counter() - start)
        working.append(time_call(partial(trainer.step, batch)))
    share = sum(waiting[1:]) / (sum(waiting[1:]) + sum(working[1:]))
    medians = {"step_seconds": statistics.median(working[1:]), "waiting_seconds": statistics.median(waiting[1:])}
    return medians | {"waiting_share": share}


def measure_floor(trainer: Trainer, batch: Batch) -> dict[str, float]:
    """Calculate the step's floor from two rates measured here.

    Returns:
        `matmul_seconds` and `traffic_seconds`: products and convolutions of the step at the rate of a large product,
        and the bytes that its operators allocate at the rate of a copy.
    """
    with FlopCounterMode(display=False) as counter:
        trainer.step(batch)
    source, target = torch.zeros(COPIED_BYTES // 4), torch.zeros(COPIED_BYTES // 4)
    copying = statistics.median(time_call(lambda: target.copy_(source)) for _ in range(5))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.step(batch)
    written = sum(max(event.self_cpu_memory_usage, 0) for event in profiled.events())
    return {
        "matmul_seconds": counter.get_total_flops() / measure_ceiling(trainer.dtype),
        "traffic_seconds": written / COPIED_BYTES * copying,
    }


def profile_step(trainer: Trainer, batch: Batch) -> list[dict[str, Any]]:
    """Profile one step and return its operators, the slowest first: `operator`, `calls`, `seconds` of its own."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        trainer.step(batch)
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    rows = [{"operator": e.key, "calls": e.count, "seconds": e.self_cpu_time_total / 1e6} for e in events]
    rest = {"operator": "others", "calls": sum(row["calls"] for row in rows[LISTED:])}
    return [*rows[:LISTED], rest | {"seconds": sum(row["seconds"] for row in rows[LISTED:])}]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    clean: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of clean photographs.")],
    steps: Annotated[int, typer.Option(min=2, help="Steps to time; the first does not count.")] = 40,
    workers: Annotated[int, typer.Option(min=1, help="Data processes.")] = 2,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "train_step.json",
) -> None:
    """Print a training step's time, its wait for data, its floor and its profile, and write them."""
    keep_freed_memory()
    dtype = torch.bfloat16 if is_bfloat16_faster(torch.device("cpu")) else torch.float32
    trainer, loader = Trainer(dtype), load_batches(clean, workers)
    batch = next(iter(loader))
    trainer.step(batch)  # compiles the kernels
    timed = measure_waiting(trainer, loader, steps)
    floor = measure_floor(trainer, batch)
    over = timed["step_seconds"] / sum(floor.values())
    operators = profile_step(trainer, batch)
    machine = describe_machine()
    kind = {"dtype": str(dtype).removeprefix("torch."), "batch": BATCH, "patch": PATCH}
    results = {"machine": machine, **kind, **timed, **floor, "over_floor": over, "operators": operators}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(f"{timed['step_seconds']:.3f} s a step, {over:.2f} times its floor; waits {timed['waiting_share']:.1%}")
    rows = [["operator", "calls", "ms"]]
    typer.echo(
        format_columns(rows + [[o["operator"], str(o["calls"]), f"{o['seconds'] * 1e3:.1f}"] for o in operators])
    )


if __name__ == "__main__":
    app()
