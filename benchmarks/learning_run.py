"""One run of `benchmarks.learning`: a candidate with a seed, trained until its budget is used.

Alone in a process pinned to one core: `python -m benchmarks.learning_run FOLDER --core 0`, where FOLDER holds its job.
"""

import copy
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from benchmarks.files import write_text
from benchmarks.learning_networks import (
    Candidate,
    build_network,
    compute_loss,
    count_cost,
    parse_candidate,
    reads_classes,
    restore,
)
from benchmarks.learning_pictures import Batch, Patches, Validation, load_validation, locked, with_patches
from benchmarks.machine import measure_memory
from dataset_scripts import KINDS
from dpmambair.files import replacing
from dpmambair.machine import describe_machine
from dpmambair.memory import keep_freed_memory
from modeling_dpmambair import DPMambaIRModel, restore_tiled
from modeling_dpmambair.modeling_dpmambair import average_squares
from restoration_metrics import psnr
from training.optimization import average_weights, build_optimizer, build_schedule
from training.recipe import Recipe

JOB, STATE, RECORD = "job.json", "state.pt", "record.json"
INFERENCE_SIDE, INFERENCE_REPEATS = 1024, 3


@dataclass(frozen=True)
class Budget:
    """How long each candidate trains.

    Attributes:
        unit: "minutes" of CPU time, or "steps".
        amount: how many.
    """

    unit: str
    amount: float

    def share(self, seconds: float, steps: int) -> float:
        """Return the share that is used, in [0, 1].

        Args:
            seconds: of CPU time in training steps.
            steps: done.
        """
        return min(1.0, (steps if self.unit == "steps" else seconds / 60) / self.amount)


@dataclass(frozen=True)
class Job:
    """What a run needs to know.

    Attributes:
        name: of the candidate.
        definition: the candidate's, as JSON gives it.
        seed: of weights and patches.
        budget: how long it trains.
        validations: how often it is validated and saved, evenly over the budget.
        recipe: whose section `data` the patches are drawn from, as nested dictionaries.
        patches: folder of the patches.
        validation: file of the held-out pictures.
        extractor: folder of the trained extractor.
        origin: `command` of the study, and `commit` of the code.
    """

    name: str
    definition: dict[str, Any]
    seed: int
    budget: Budget
    validations: int
    recipe: dict[str, Any]
    patches: str
    validation: str
    extractor: str
    origin: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read a job's file.

        Args:
            path: JSON.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**content | {"budget": Budget(**content["budget"])})

    def write(self, path: Path) -> None:
        """Write the job's file.

        Args:
            path: JSON.
        """
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


class Run:
    """A candidate in training.

    Args:
        job: what to train.
        folder: of the run, where its state is saved.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.candidate: Candidate = parse_candidate(job.name, job.definition)
        self.training = self.candidate.training
        torch.manual_seed(job.seed)
        self.network = build_network(self.candidate, Path(job.extractor)).train()
        self.averaged = average_weights(self.network, self.training.ema_decay).eval()
        self.optimizer = build_optimizer(self.network, self.training)
        self.schedule = build_schedule(self.optimizer, self.training)
        recipe = with_patches(Recipe.from_dict(job.recipe), self.candidate.side, job.seed)
        self.patches, self.pictures = Patches(Path(job.patches), recipe), load_validation(Path(job.validation))
        self.steps, self.seconds, self.curve = 0, 0.0, []
        if (folder / STATE).exists():
            self._load()

    @property
    def share(self) -> float:
        """Share of the budget that is used, in [0, 1]."""
        return self.job.budget.share(self.seconds, self.steps)

    def train(self) -> None:
        """Train until the budget is used, from the last saved state on; validate and save now and then.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self._warm_up()
        title = f"{self.job.name}, seed {self.job.seed}"
        with tqdm(total=100, initial=round(100 * self.share), desc=title, unit="%", disable=None) as bar:
            while self.share < 1:
                before = self._count_due()
                self._step()
                bar.update(round(100 * self.share) - bar.n)
                if self._count_due() > before:
                    self.curve.append(self._validate())
                    self._save()
                    bar.set_postfix(gain=f"{self.curve[-1]['mean']:+.2f} dB")

    def _count_due(self) -> int:
        return int(self.share * self.job.validations + 1e-9)

    def _warm_up(self) -> None:
        """Compile what a step compiles, outside the budget, on a copy: running norms learn from what they see."""
        compute_loss(copy.deepcopy(self.network), self.candidate.loss, self._batch()).backward()

    def _batch(self) -> Batch:
        return self.patches.batch(self.steps, self.training.batch_size)

    def _step(self) -> None:
        self._set_rate()
        batch = self._batch()
        start = time.process_time()
        loss = compute_loss(self.network, self.candidate.loss, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.training.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averaged.update_parameters(self.network)
        self.seconds += time.process_time() - start
        self.steps += 1
        reached = loss.item()
        if not math.isfinite(reached):
            raise FloatingPointError(
                f"loss of {self.job.name!r} must be finite, got {reached} in step {self.steps}; lower its rate"
            )

    def _set_rate(self) -> None:
        """Set the rate that the schedule has at the share of its steps at which the budget stands."""
        place, schedule = self.share * self.training.steps, self.schedule
        for group, highest, factor in zip(
            self.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = highest * factor(place)

    def _validate(self) -> dict[str, Any]:
        scores = score(self.averaged.module, self.pictures)
        return {"minutes": self.seconds / 60, "steps": self.steps, **scores}

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "averaged": self.averaged, "optimizer": self.optimizer}

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        progress = {"steps": self.steps, "seconds": self.seconds, "curve": self.curve}
        with replacing(self.folder / STATE) as unfinished:
            torch.save(state | progress, unfinished)

    def _load(self) -> None:
        state = torch.load(self.folder / STATE, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.steps, self.seconds, self.curve = state["steps"], state["seconds"], state["curve"]

    def finish(self) -> dict[str, Any]:
        """Measure the trained network, write the record and return it."""
        batch, side = self.training.batch_size, self.candidate.side
        seconds = self.seconds / self.steps
        record = {
            "candidate": self.job.name,
            "seed": self.job.seed,
            "budget": asdict(self.job.budget),
            "pictures": [Path(self.job.patches).name, Path(self.job.validation).stem],
            "definition": self.job.definition,
            **self.curve[-1],
            "step_seconds": seconds,
            "pixels_per_second": batch * side**2 / seconds,
            **count_cost(self.averaged.module),
            **measure_inference(self.averaged.module),
            "machine": describe_machine(),
            **self.job.origin,
            "curve": self.curve,
        }
        write_text(self.folder / RECORD, json.dumps(record, indent=2, allow_nan=False) + "\n")
        return record


@torch.no_grad()
def score(network: torch.nn.Module, pictures: Validation) -> dict[str, Any]:
    """Measure what a network gains on held-out pictures.

    Args:
        network: from `build_network`, in evaluation mode.
        pictures: the held-out ones.

    Returns:
        `gain`: for each kind the mean of PSNR after minus PSNR before, dB; `mean` over the kinds; `detail`: `gain` if
        the means of squares of 32 pixels stay as the degraded picture has them; `clean`: mean PSNR of what becomes of
        undegraded pictures, dB, None where they stay as they are, or no class label is theirs.
    """
    gain, detail = {}, {}
    for kind, degraded in pictures.degraded.items():
        classes = torch.full((len(degraded),), KINDS.index(kind))
        restored, before = restore(network, degraded, classes).clamp(0, 1), psnr(degraded, pictures.clean)
        gain[kind] = _mean_of_finite(psnr(restored, pictures.clean) - before) or 0.0
        toned = (restored + average_squares(degraded - restored)).clamp(0, 1)
        detail[kind] = _mean_of_finite(psnr(toned, pictures.clean) - before) or 0.0
    clean = None if reads_classes(network) else _score_clean(network, pictures.clean)
    return {"gain": gain, "mean": statistics.fmean(gain.values()), "detail": detail, "clean": clean}


def _score_clean(network: torch.nn.Module, clean: Tensor) -> float | None:
    no_class = torch.zeros(len(clean), dtype=torch.long)
    return _mean_of_finite(psnr(restore(network, clean, no_class).clamp(0, 1), clean))


def _mean_of_finite(values: Tensor) -> float | None:
    """Mean without pictures that the kind, or the network, leaves as they are."""
    finite = values[torch.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


@torch.no_grad()
def measure_inference(network: torch.nn.Module) -> dict[str, float | None]:
    """Measure what restoring one picture takes.

    Args:
        network: from `build_network`, in evaluation mode.

    Returns:
        `megapixel_seconds`: median CPU time for a million pixels; `memory`: peak, bytes, for the picture of
        1024 x 1024, the lower of two because freed memory lies scattered; None where Linux does not say.
    """
    picture = torch.rand(1, 3, INFERENCE_SIDE, INFERENCE_SIDE)
    # Ours as its users run it, where large pictures pass in strips.
    given = {"degradation_embedding": network.class_embedding.weight[:1]} if reads_classes(network) else {}
    run = partial(restore_tiled, network, **given) if isinstance(network, DPMambaIRModel) else network
    peaks = [measure_memory(lambda: run(picture)) for _ in range(2)]
    seconds = [_time_cpu(lambda: run(picture)) for _ in range(INFERENCE_REPEATS)]
    return {
        "megapixel_seconds": statistics.median(seconds) / INFERENCE_SIDE**2 * 1e6,
        "memory": None if None in peaks else min(peaks),
    }


def _time_cpu(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def run(folder: Path) -> dict[str, Any]:
    """Train the job of a folder on one thread, or go on with it.

    Args:
        folder: holds `job.json`.

    Returns:
        Its record; that of a finished run is only read.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with locked(folder):  # another study may want the same run
            if (folder / RECORD).exists():
                return json.loads((folder / RECORD).read_text(encoding="utf-8"))
            one = Run(Job.read(folder / JOB), folder)
            one.train()
            return one.finish()
    finally:
        torch.set_num_threads(threads)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder that holds the job.")],
    core: Annotated[int | None, typer.Option(min=0, help="Core to stay on.")] = None,
) -> None:
    """Train the job of a folder, or go on with it."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    run(folder)


if __name__ == "__main__":
    app()
