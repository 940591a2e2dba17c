"""How fast patches come: `python -m benchmarks.data_loading --pictures DIR|generated`.

Nothing is kept decoded, as in a corpus that no memory holds. The mixture is gone through for thousands of samples,
over which the memory of its workers is watched. Each synthetic kind is compared with a loader that degrades the whole
picture and then cuts the patch out, in the same run on the same pictures.
"""

import json
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import torch
import typer
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from benchmarks.files import RESULTS, write_text
from benchmarks.rendering import format_columns
from dataset_scripts import (
    KINDS,
    RECIPES,
    RestorationMixture,
    RestorationSet,
    apply_degradations,
    load_clean_photographs,
)
from dataset_scripts.transforms import crop, sample_window, to_float, to_tensor
from dpmambair.machine import describe_machine

PATCH_SIZE, BATCH_SIZE = 192, 8
# Two megapixels, as a camera's 4:3 gives them.
GENERATED_SIZE, GENERATED_COUNT, GENERATED_QUALITY = (1632, 1224), 16, 90
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
# Of the paper's seven sets five are real pairs; noise and JPEG are laid over clean photographs.
REAL_TASKS = KINDS[:5]
# Samples before which memory still fills, and by how much it may grow after them and still count as flat.
WARM_UP, GROWTH_ALLOWED = 0.1, 0.05
PAIRS_WANTED, RATIO_WANTED = 40, 3

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class WholePictures(Dataset):
    """The loader to compare with: it decodes and degrades a whole picture, and then cuts a patch out.

    Args:
        dataset: has the column `clean`.
        kind: recipe.
    """

    def __init__(self, dataset: datasets.Dataset, kind: str) -> None:
        self._dataset, self._recipe = dataset, RECIPES[kind]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw one patch."""
        rng = np.random.default_rng(index)
        clean = to_float(np.asarray(self._dataset[index]["clean"]))
        degraded = apply_degradations(clean, self._recipe.draw(rng))
        window = sample_window(*clean.shape[:2], PATCH_SIZE, rng)
        return {"pixel_values": to_tensor(crop(degraded, window)), "labels": to_tensor(crop(clean, window))}


def generate_pictures(folder: Path) -> None:
    """Write JPEG files of two megapixels, enlarged from photographs that scikit-image ships.

    Args:
        folder: where to write.
    """
    rng = np.random.default_rng(0)
    for number in range(GENERATED_COUNT):
        photograph = getattr(data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])()
        enlarged = Image.fromarray(photograph).resize(GENERATED_SIZE, Image.Resampling.BICUBIC)
        # A camera's grain: without it the files would be too easy to decode.
        grainy = np.asarray(enlarged, np.int16) + rng.integers(-8, 9, size=(*GENERATED_SIZE[::-1], 3))
        picture = Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8))
        picture.save(folder / f"{number:02d}.jpg", quality=GENERATED_QUALITY)


def pairs_per_second(dataset: Dataset, samples: int, workers: int) -> float:
    """Time a loader from its making to its last batch: what workers fetch ahead would else come for nothing.

    Args:
        dataset: what to load, gone through again and again.
        samples: how many patches.
        workers: of the loader.
    """
    order = np.random.default_rng(0).integers(len(dataset), size=samples).tolist()
    start = time.perf_counter()
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, sampler=order, num_workers=workers)
    count = sum(len(batch["labels"]) for batch in loader)
    return count / (time.perf_counter() - start)


def build_mixture(clean: datasets.Dataset, pairs: datasets.Dataset) -> RestorationMixture:
    """Build the paper's mixture, balanced: five sets of real pairs, and two of clean photographs.

    Args:
        clean: photographs.
        pairs: pairs of JPEG files; each of the five sets has them all.
    """
    sets = {task: RestorationSet(pairs) for task in REAL_TASKS}
    sets |= {kind: RestorationSet(clean, RECIPES[kind]) for kind in KINDS if kind not in REAL_TASKS}
    return RestorationMixture(sets, "balanced", PATCH_SIZE, epoch_size=max(len(clean) * len(sets), 64), cache_bytes=0)


def pair_with_itself(clean: datasets.Dataset) -> datasets.Dataset:
    """Make pairs that cost what real ones cost: two files to decode. Their content does not matter here.

    Args:
        clean: photographs.
    """
    paths = clean.cast_column("clean", datasets.Image(decode=False))
    degraded = [row["clean"] for row in paths]
    pairs = clean.add_column("degraded", degraded, feature=datasets.Image(mode="RGB"))
    return pairs.add_column("task", ["blur"] * len(clean)).add_column("record", [""] * len(clean))


def measure_kinds(clean: datasets.Dataset, samples: int, workers: int) -> list[dict[str, Any]]:
    """Time every synthetic kind, by patch and by whole picture.

    Args:
        clean: photographs.
        samples: how many patches of each to time; a quarter of them by whole picture.
        workers: of the loaders.
    """
    rows = []
    for kind in tqdm(KINDS, unit="kind", disable=None):
        ours = RestorationMixture({kind: RestorationSet(clean, RECIPES[kind])}, "natural", PATCH_SIZE, cache_bytes=0)
        by_patch = pairs_per_second(ours, samples, workers)
        by_picture = pairs_per_second(WholePictures(clean, kind), max(samples // 4, BATCH_SIZE), workers)
        rows.append({"kind": kind, "by_patch": by_patch, "by_picture": by_picture, "ratio": by_patch / by_picture})
    return rows


class Watched(Dataset):
    """Patches and the most memory that their process has held after each.

    Args:
        mixture: what to draw, epoch after epoch.
        samples: how many.
    """

    def __init__(self, mixture: RestorationMixture, samples: int) -> None:
        self._mixture, self._samples = mixture, samples

    def __len__(self) -> int:
        """Number of samples."""
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw one patch; the number of the epoch is of no consequence here."""
        patch = self._mixture[index % len(self._mixture)]
        return {"labels": patch["labels"], "pixel_values": patch["pixel_values"], "peak": _peak_memory()}


def measure_mixture(mixture: RestorationMixture, samples: int, workers: int) -> dict[str, Any]:
    """Time a loader of the mixture, and see how far its workers' memory grows after the first samples.

    Args:
        mixture: what to draw.
        samples: how many.
        workers: of the loader.

    Returns:
        `samples` and `pairs_per_second`; `warm` and `end`: the most bytes that a worker has held after a tenth of the
        samples, and at the end.
    """
    start, peaks = time.perf_counter(), []
    loader = DataLoader(Watched(mixture, samples), batch_size=BATCH_SIZE, num_workers=workers)
    for batch in tqdm(loader, unit="batch", disable=None):
        peaks += batch["peak"].tolist()
    seconds = time.perf_counter() - start
    warm = max(peaks[: max(int(samples * WARM_UP), 1)])
    return {"samples": samples, "pairs_per_second": samples / seconds, "warm": warm, "end": max(peaks)}


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes


def measure(pictures: Path, limit: int, samples: int, workers: int) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        pictures: folder of JPEG files.
        limit: how many patches of each kind to time.
        samples: how many of the mixture.
        workers: of the loaders.
    """
    with tempfile.TemporaryDirectory() as cache:
        clean = load_clean_photographs(pictures, cache_dir=cache)
        mixture = build_mixture(clean, pair_with_itself(clean))
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": describe_machine(processes=workers) | {"threads": 1},
            "patch_size": PATCH_SIZE,
            "pictures": {"count": len(clean), "first_size": list(clean[0]["clean"].size)},
            "mixture": measure_mixture(mixture, samples, workers),
            "kinds": measure_kinds(clean, limit, workers),
            "wanted": {"pairs_per_second": PAIRS_WANTED, "ratio": RATIO_WANTED, "growth": GROWTH_ALLOWED},
        }


@app.command()
def main(
    pictures: Annotated[str, typer.Option(help="Folder of photographs, or `generated` for JPEGs of 2 megapixels.")],
    limit: Annotated[int, typer.Option(min=8, help="Patches of each kind to time.")] = 400,
    samples: Annotated[int, typer.Option(min=8, help="Patches of the mixture to time and watch the memory over.")] = (
        10_000
    ),
    workers: Annotated[int, typer.Option(min=0, help="Worker processes.")] = 2,
    output: Annotated[Path, typer.Option(help="JSON file to write.", show_default="the tables' own")] = (
        RESULTS / "data_loading.json"
    ),
) -> None:
    """Time the mixture and every synthetic kind, watch the memory, and write the results."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if pictures == "generated":
            generate_pictures(Path(folder))
        results = measure(Path(folder if pictures == "generated" else pictures), limit, samples, workers)
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(_grid(results)))


def _grid(results: dict[str, Any]) -> list[list[str]]:
    rows = [["pairs per second", "by patch", "by whole picture", "ratio", "wanted", "verdict"]]
    mixture, wanted = results["mixture"], results["wanted"]
    speed, growth = mixture["pairs_per_second"], mixture["end"] / mixture["warm"] - 1
    pairs_wanted, ratio_wanted = wanted["pairs_per_second"], wanted["ratio"]
    rows.append(["mixture", f"{speed:.1f}", "-", "-", f"{pairs_wanted}", _judge(speed >= pairs_wanted)])
    for row in results["kinds"]:
        numbers = [f"{row['by_patch']:.1f}", f"{row['by_picture']:.1f}", f"{row['ratio']:.1f}"]
        rows.append([row["kind"], *numbers, f"ratio {ratio_wanted}", _judge(row["ratio"] >= ratio_wanted)])
    label = f"memory growth over {mixture['samples']} samples"
    return [*rows, [label, f"{growth:.1%}", "-", "-", f"{wanted['growth']:.0%}", _judge(growth <= wanted["growth"])]]


def _judge(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


if __name__ == "__main__":
    app()
