"""Compare how fast networks learn: `python -m benchmarks.learning tiny nafnet32 --clean DIR --minutes 30 --seeds 0,1`.

Candidates of `configuration/learning.json` see the same patches in the same order for the same CPU time, each on
one thread; two run side by side on two cores. Only training steps count: not drawing, validating or compiling. A study
may be stopped at any time; the same command goes on from the last validation of each run, and finished runs are kept.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.files import RESULTS, write_text
from benchmarks.learning_networks import Candidate, read_candidates
from benchmarks.learning_pictures import draw_validation, find_patches
from benchmarks.learning_run import JOB, RECORD, Budget, Job, run
from benchmarks.learning_table import group_runs, learning_grid, name_budget
from benchmarks.rendering import format_columns
from dpmambair.files import replacing
from dpmambair.machine import describe_command, read_commit
from dpmambair.shipped import SHIPPED
from training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
VALIDATION_PICTURES, VALIDATION_SIDE = 20, 128
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
LOG, POLL_SECONDS = "log.txt", 0.5
DASHES = ("-", "--", ":", "-.")


def prepare(candidates: Sequence[Candidate], seeds: Sequence[int], base: Job, work: Path) -> list[Path]:
    """Write the jobs of all candidates and seeds, each into a folder named after what shapes its result.

    Args:
        candidates: what to train.
        seeds: of weights and patches.
        base: what all jobs share.
        work: folder in which everything drawn and trained lies.

    Returns:
        The folders, all candidates of a seed before the next one's.
    """
    recipe = Recipe.from_dict(base.recipe)
    patches = {
        (side, seed): find_patches(recipe, side, seed, work)
        for side in dict.fromkeys(one.side for one in candidates)
        for seed in seeds
    }
    weights = _digest(*(path.read_bytes() for path in sorted(Path(base.extractor).glob("*.safetensors"))))
    folders = []
    for seed in seeds:
        for one in candidates:
            places = {"patches": str(patches[one.side, seed]), "seed": seed}
            job = Job(**vars(base) | places | {"name": one.name, "definition": one.definition})
            folders.append(work / "runs" / _name_run(job, weights))
            job.write(folders[-1] / JOB)
    return folders


def _name_run(job: Job, weights: str) -> str:
    config = job.definition["network"].get("config")
    settings = job.definition, Path(job.patches).name, Path(job.validation).name, job.validations, weights
    identity = _digest(json.dumps(settings, sort_keys=True).encode(), Path(config).read_bytes() if config else b"")
    return f"{job.name}-{name_budget(vars(job.budget)).replace(' ', '-')}-seed{job.seed}-{identity}"


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:10]


def work_through(folders: Sequence[Path], cores: Sequence[int]) -> Iterator[str | None]:
    """Train all jobs, one at a time on each core, and yield for each that ended what made it fail, or None.

    Args:
        folders: of the jobs.
        cores: to pin a process each to; none: one job after another in this process.
    """
    with tqdm(total=len(folders), desc="runs", disable=None) as bar:
        for fault in _share_out(list(folders), cores) if cores else map(_run_here, folders):
            bar.update()
            yield fault


def _run_here(folder: Path) -> str | None:
    try:
        run(folder)
    except FloatingPointError as error:
        return f"{folder.name}: {error}"
    return None


def _share_out(waiting: list[Path], cores: Sequence[int]) -> Iterator[str | None]:
    running: dict[int, tuple[Path, subprocess.Popen]] = {}
    # Without this the processes on the other cores would outlive this one.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while waiting or running:
            for core in [core for core in cores if core not in running and waiting]:
                folder = waiting.pop(0)
                running[core] = folder, _start(folder, core)
            time.sleep(POLL_SECONDS)
            for core in [core for core, (_, process) in running.items() if process.poll() is not None]:
                folder, process = running.pop(core)
                failed = f"{folder.name}: exit status {process.returncode}; see {folder / LOG}"
                yield failed if process.returncode else None
    finally:
        for _, process in running.values():
            process.terminate()
        signal.signal(signal.SIGTERM, before)


def _start(folder: Path, core: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.learning_run", str(folder.resolve()), "--core", str(core)]
    with (folder / LOG).open("a") as log:
        return subprocess.Popen(command, env=os.environ | ONE_THREAD, stdout=log, stderr=log)


def merge(path: Path, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put records beside those of a results file, in place of earlier ones of the same candidate, seed and budget.

    Args:
        path: the file; it may not exist yet.
        found: the new records.

    Returns:
        What the file should hold.
    """
    earlier = json.loads(path.read_text(encoding="utf-8"))["records"] if path.exists() else []
    records = {_identify(one): one for one in [*earlier, *found]}
    return {"records": [records[key] for key in sorted(records)]}


def _identify(record: dict[str, Any]) -> tuple[Any, ...]:
    return *sorted(record["budget"].items()), record["candidate"], record["seed"]


def publish(folders: Sequence[Path], output: Path) -> None:
    """Add the records of all runs that are finished to a results file, and plot it if they were validated on the way.

    Args:
        folders: of the runs.
        output: JSON file; the plot goes beside it.
    """
    done = [json.loads((one / RECORD).read_text(encoding="utf-8")) for one in folders if (one / RECORD).exists()]
    if done:
        results = merge(output, done)
        write_text(output, json.dumps(results, indent=2) + "\n")
        if any(len(one["curve"]) > 1 for one in results["records"]):
            draw(results, output.with_suffix(".png"))


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot gain over CPU time, a panel for each budget: the mean of the seeds, and all between their extremes.

    Args:
        results: content of the results file.
        path: PNG file.
    """
    budgets: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (budget, name), runs in group_runs(results).items():
        budgets.setdefault(budget, {})[name] = runs
    figure = Figure(figsize=(7 * len(budgets), 5), layout="constrained")
    panels = figure.subplots(1, len(budgets), squeeze=False)[0]
    for axes, (budget, candidates) in zip(panels, budgets.items(), strict=True):
        for number, (name, runs) in enumerate(candidates.items()):
            points = list(zip(*(one["curve"] for one in runs), strict=False))  # some may be validated more often
            minutes = [sum(one["minutes"] for one in point) / len(point) for point in points]
            gains = [[one["mean"] for one in point] for point in points]
            style = DASHES[number // 10 % len(DASHES)]  # ten colours
            (line,) = axes.plot(minutes, [sum(gain) / len(gain) for gain in gains], style, marker=".", label=name)
            axes.fill_between(minutes, [*map(min, gains)], [*map(max, gains)], color=line.get_color(), alpha=0.2)
        axes.set(xlabel="CPU minutes", ylabel="mean gain, dB", title=budget)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=120)


def _read_numbers(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"`{option}` must be whole numbers from 0, got {text!r}; write them as in 0,1")
    return [int(part) for part in parts]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CANDIDATE]...", help="By default all.")] = None,
    clean: Annotated[list[str] | None, typer.Option(help="Folder of clean photographs; repeatable.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget: CPU minutes in training steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget: steps, in place of minutes.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, as in 0,1.")] = "0",
    cores: Annotated[str, typer.Option(help="Cores to pin a process each to, as in 0,1; none: this process.")] = "",
    candidates: Annotated[Path, typer.Option(help="JSON file of the candidates.")] = (
        ROOT / "configuration" / "learning.json"
    ),
    recipe: Annotated[Path, typer.Option(help="Training recipe whose section `data` is drawn from.")] = (
        ROOT / "configuration" / "train" / "light_cpu_restorer.json"
    ),
    extractor: Annotated[Path, typer.Option(help="Folder of the trained extractor.")] = SHIPPED,
    validations: Annotated[int, typer.Option(min=1, help="How often each run is validated and saved.")] = 12,
    work: Annotated[Path, typer.Option(help="Folder of patches and runs.")] = Path("runs/learning"),
    output: Annotated[Path, typer.Option(help="JSON file that runs are added to; the plot goes beside it.")] = (
        RESULTS / "learning.json"
    ),
) -> None:
    """Train candidates, add what they reached to the results, and print and plot all of these."""
    if (minutes is None) == (steps is None) or (minutes is not None and minutes <= 0):
        raise typer.BadParameter("`minutes` or `steps` must be given, one of them and positive; give --minutes 30")
    known = read_candidates(candidates)
    for name in names or known:
        if name not in known:
            raise typer.BadParameter(f"`candidate` must be one of {', '.join(known)}, got {name!r}; correct it")
    seeded, pinned = _read_numbers("seeds", seeds), _read_numbers("cores", cores)
    overrides = [f"data.clean_dirs={','.join(clean)}"] if clean else []
    data = Recipe.from_file(recipe, overrides)
    base = Job(
        name="",
        definition={},
        seed=0,
        budget=Budget("steps", steps) if steps else Budget("minutes", minutes),
        validations=validations,
        recipe=data.to_dict(),
        patches="",
        validation=str(draw_validation(data, VALIDATION_PICTURES, VALIDATION_SIDE, work)),
        extractor=str(extractor),
        origin={"command": describe_command("benchmarks.learning"), "commit": read_commit()},
    )
    folders = prepare([known[name] for name in names or known], seeded, base, work)
    faults = []
    for fault in work_through(folders, pinned):
        faults += [fault] if fault else []
        publish(folders, output)
    for fault in faults:
        typer.echo(fault, err=True)
    if output.exists():
        typer.echo(format_columns(learning_grid(json.loads(output.read_text(encoding="utf-8")))))
    if faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
