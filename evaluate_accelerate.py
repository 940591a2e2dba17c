"""Measure a restorer on a benchmark: PSNR and SSIM of every picture before and after, and their averages per task.

`python evaluate_accelerate.py --model MODEL --clean PHOTOGRAPHS --output results.json`; under `accelerate launch` the
pictures are shared among the processes, and the result is the same up to rounding.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from tqdm import tqdm

from dataset_scripts.degradations import apply_degradations, sample_degradation
from dataset_scripts.synthetic_restoration import find_fault, list_photographs
from dataset_scripts.transforms import to_float
from dpmambair.files import replacing
from dpmambair.machine import describe_machine
from modeling_dpmambair import DPMambaIRModel, Restorer, read_picture
from restoration_metrics.figures import draw_gains, join_pictures
from restoration_metrics.functional import SSIM_WINDOW
from restoration_metrics.scores import format_table, score, summarize

BENCHMARKS = Path(__file__).resolve().parent / "configuration" / "benchmarks.json"
PICTURES_PER_GRID = 4

Restore = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Benchmark:
    """A synthetic benchmark: which degradations every clean picture suffers.

    Attributes:
        name: the benchmark's key in `configuration/benchmarks.json`.
        description: what it measures, in one line.
        kinds: the degradations, one task each.
        severity: strength of each, in [0, 1].
        seed: fixes every random parameter, together with the positions of the kind and of the picture.
    """

    name: str
    description: str
    kinds: tuple[str, ...]
    severity: float
    seed: int


@dataclass
class Measurements:
    """What one process found out about its share of the pictures.

    Attributes:
        scores: one record per task and picture.
        rows: task, picture's position and the row "degraded | restored | clean" of each picture to show.
        failures: names of the pictures that could not be read.
    """

    scores: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[str, int, Image.Image]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def gather(self) -> "Measurements":
        """Unite the findings of all processes; every process must call this."""
        return Measurements(gather_object(self.scores), gather_object(self.rows), gather_object(self.failures))


def load_benchmark(name: str) -> Benchmark:
    """Read a benchmark's definition.

    Args:
        name: its key in `configuration/benchmarks.json`.

    Returns:
        The definition.

    Raises:
        typer.BadParameter: no benchmark has that name.
    """
    definitions = json.loads(BENCHMARKS.read_text(encoding="utf-8"))
    if name not in definitions:
        raise typer.BadParameter(
            f"`--benchmark` must be one of {', '.join(definitions)}, got {name!r}; "
            "choose one or define it in configuration/benchmarks.json"
        )
    definition = definitions[name]
    return Benchmark(name, **{**definition, "kinds": tuple(definition["kinds"])})


def list_clean(folder: Path) -> list[tuple[int, Path, str]]:
    """List the clean pictures of a folder and below.

    Args:
        folder: where to look.

    Returns:
        Position, path and name of each; the position fixes its degradations.

    Raises:
        typer.BadParameter: the folder holds no picture or cannot be read.
    """
    try:
        photographs = list_photographs(folder)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"`--clean`: {error}") from error
    return [(index, Path(one.path), one.file_name) for index, one in enumerate(photographs)]


def read_clean(path: Path) -> Image.Image:
    """Read a ground truth.

    Args:
        path: an opaque picture with 8 bits a channel.

    Returns:
        The picture upright, RGB.

    Raises:
        ValueError: the file cannot serve as a clean photograph, or is smaller than the window of SSIM.
    """
    if fault := find_fault(str(path)):
        raise ValueError(fault)
    clean = read_picture(path).image.convert("RGB")
    if min(clean.size) < SSIM_WINDOW:
        raise ValueError(
            f"a picture must be at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
            f"got {clean.height} x {clean.width}; remove it"
        )
    return clean


def degrade(clean: Image.Image, benchmark: Benchmark, kind_index: int, file_index: int) -> Image.Image:
    """Degrade a picture as the benchmark says, to 8 bit, because that is what people's files hold.

    Args:
        clean: the ground truth, RGB.
        benchmark: gives the kinds, the severity and the seed.
        kind_index: position of the kind in `benchmark.kinds`.
        file_index: position of the picture in the folder.

    Returns:
        The degraded picture, RGB, of the same size; the same for the same arguments.
    """
    rng = np.random.default_rng((benchmark.seed, kind_index, file_index))
    degradation = sample_degradation(benchmark.kinds[kind_index], benchmark.severity, rng)
    degraded = apply_degradations(to_float(np.asarray(clean)), [degradation])
    return Image.fromarray(np.round(degraded * 255).astype(np.uint8))


def measure_pairs(
    files: Sequence[tuple[int, Path, str]], benchmark: Benchmark, restore: Restore, show: bool, progress: tqdm
) -> Measurements:
    """Degrade, restore and measure pictures one by one; report unreadable ones on stderr and go on.

    Args:
        files: position, path and name of each clean picture.
        benchmark: what happens to them.
        restore: function from a degraded to a restored picture.
        show: keep rows of the first pictures for the grids.
        progress: advances by one per task and picture.

    Returns:
        All that was measured.
    """
    found = Measurements()
    for file_index, path, name in files:
        try:
            clean = read_clean(path)
        except (OSError, ValueError) as error:
            tqdm.write(f"{path}: {error}", file=sys.stderr)
            found.failures.append(name)
            progress.update(len(benchmark.kinds))
            continue
        for kind_index, task in enumerate(benchmark.kinds):
            degraded = degrade(clean, benchmark, kind_index, file_index)
            restored = restore(degraded)
            identity = {"task": task, "file_index": file_index, "file_name": name}
            found.scores.append(identity | score(degraded, restored, clean))
            if show and file_index < PICTURES_PER_GRID:
                found.rows.append((task, file_index, join_pictures([degraded, restored, clean])))
            progress.update()
    return found


def describe_model(model: DPMambaIRModel, folder: Path, dtype: str) -> dict[str, Any]:
    """Say which weights were measured: folder's name, parameter count, number format and checksum.

    Args:
        model: the loaded model.
        folder: where it comes from.
        dtype: number format of the computation; the weights stay float32.

    Returns:
        Entries for the results file.
    """
    checksum = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        checksum.update(path.read_bytes())
    return {
        "name": folder.resolve().name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": dtype,
        "weights_sha256": checksum.hexdigest(),
    }


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write the results as strict JSON; an infinite PSNR, of identical pictures, becomes null.

    Args:
        results: nested dictionaries and lists.
        path: file to write.
    """
    # Strict JSON has no infinity; the parser meets every one, however deeply nested.
    finite = json.loads(json.dumps(results), parse_constant=lambda _: None)
    with replacing(path) as partial:
        partial.write_text(json.dumps(finite, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_plot(results: dict[str, Any], path: Path) -> None:
    """Draw how much PSNR each task gains, and all together.

    Args:
        results: what `summarize` returned.
        path: PNG file to write.
    """
    means = results["tasks"] | {"overall": results["overall"]}
    figure = draw_gains({task: mean["psnr_gain"] for task, mean in means.items()}, "PSNR gain (dB)")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def write_grids(rows: Sequence[tuple[str, int, Image.Image]], folder: Path) -> None:
    """Write per task one picture whose rows show degraded | restored | clean.

    Args:
        rows: task, picture's position and row.
        folder: where `TASK.png` go.
    """
    for task in dict.fromkeys(row[0] for row in rows):
        shown = sorted((row for row in rows if row[0] == task), key=lambda row: row[1])
        with replacing(folder / f"{task}.png") as partial:
            join_pictures([picture for _, _, picture in shown], vertical=True).save(partial, format="PNG")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the trained model.")],
    clean: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of clean pictures.")],
    output: Annotated[Path, typer.Option(help="JSON file to write; the plot goes beside it.")],
    benchmark: Annotated[str, typer.Option(help="Name in configuration/benchmarks.json.")] = "synthetic7",
    pictures: Annotated[Path | None, typer.Option(help="Folder for one comparison grid per task.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure only the first so many pictures.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Number format of the computation.")
    ] = "float32",
) -> None:
    """Measure a restorer: PSNR and SSIM before and after, for each picture and each task."""
    if output.suffix != ".json":
        raise typer.BadParameter(f"`--output` must end in .json, got {str(output)!r}; rename it")
    definition, files = load_benchmark(benchmark), list_clean(clean)[:limit]
    accelerator = Accelerator()
    try:
        restorer = Restorer.from_pretrained(model, accelerator.device, dtype)
    except ValueError as error:
        raise typer.BadParameter(f"`--model` must be a folder of a trained restorer: {error}") from error
    with accelerator.split_between_processes(files) as share:
        steps = len(share) * len(definition.kinds)
        with tqdm(total=steps, unit="picture", disable=not accelerator.is_main_process) as progress:
            found = measure_pairs(share, definition, restorer, pictures is not None, progress).gather()
    if accelerator.is_main_process and found.scores:
        results = {
            "benchmark": asdict(definition) | {"clean": clean.resolve().name, "failures": sorted(found.failures)},
            "model": describe_model(restorer.model, model, dtype),
            "machine": describe_machine(accelerator.device.type, accelerator.num_processes),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        } | summarize(found.scores, definition.kinds)
        write_results(results, output)
        write_plot(results, output.with_suffix(".png"))
        if pictures is not None:
            write_grids(found.rows, pictures)
        typer.echo(format_table(results))
    raise typer.Exit(int(bool(found.failures)))


if __name__ == "__main__":
    app()
