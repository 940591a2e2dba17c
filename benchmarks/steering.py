"""Measure what `--keep` and `--self-ensemble` do: `python -m benchmarks.steering --clean DIR --model DIR`.

Each photograph is degraded by every two kinds together, at severity 0.5. One of the two is to stay: what should come
out is the photograph degraded by that one alone. How much of each kind's damage a restoration takes away tells how
well that works: the correction is split, by least squares, into what would undo the one kind and what would undo the
other.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from PIL import Image
from tqdm import tqdm

from benchmarks.files import RESULTS, name_weights, write_text
from benchmarks.rendering import format_columns
from benchmarks.steering_table import ensemble_grid, steering_grid
from dataset_scripts.degradations import KINDS, apply_degradations, sample_degradation
from dataset_scripts.synthetic_restoration import list_photographs
from dataset_scripts.transforms import to_float, to_tensor
from modeling_dpmambair import Restorer
from restoration_metrics import psnr

SEED = 2504
SEVERITY = 0.5


class Composite(NamedTuple):
    """A photograph degraded by two kinds; tensors (1, 3, H, W) in [0, 1], of 8 bits.

    Attributes:
        degraded: by both.
        alone: by each of the two, by its name.
        clean: by none.
    """

    degraded: torch.Tensor
    alone: dict[str, torch.Tensor]
    clean: torch.Tensor


def degrade(clean: np.ndarray, kinds: tuple[str, str], place: int) -> Composite:
    """Degrade a picture by two kinds, together and each alone.

    Args:
        clean: (H, W, 3) float32 in [0, 1].
        kinds: of `KINDS`.
        place: the picture's position, which with kinds and seed fixes the degradations.
    """
    rng = np.random.default_rng((SEED, place, *map(KINDS.index, kinds)))
    drawn = [sample_degradation(kind, SEVERITY, rng) for kind in kinds]
    alone = {each.kind: _to_levels(apply_degradations(clean, [each])) for each in drawn}
    return Composite(_to_levels(apply_degradations(clean, drawn)), alone, _to_levels(clean))


def _to_levels(picture: np.ndarray) -> torch.Tensor:
    return torch.round(to_tensor(picture) * 255)[None] / 255


def measure_shares(composite: Composite, restored: torch.Tensor, kept: str) -> tuple[float, float]:
    """Return how much of the damage of the repaired and of the kept kind a restoration takes away, each 1 for all.

    Args:
        composite: what was restored.
        restored: (1, 3, H, W) in [0, 1].
        kept: the kind that should stay.
    """
    wanted = composite.alone[kept]
    parts = torch.stack([(wanted - composite.degraded).flatten(), (composite.clean - wanted).flatten()], 1)
    correction = (restored - composite.degraded).flatten()[:, None]
    repaired, lost = torch.linalg.lstsq(parts.double(), correction.double()).solution[:, 0].tolist()
    return repaired, lost


def measure(restorer: Restorer, pictures: list[np.ndarray]) -> dict[str, Any]:
    """Restore all composites whole, with one kind kept, and by the self-ensemble.

    Args:
        restorer: its model has a head that describes; also one that would refuse to be steered.
        pictures: clean, (H, W, 3) float32 in [0, 1].

    Returns:
        `keep`: by kept kind, mean shares and PSNR (dB) to what should come out; `ensemble`: mean PSNR to the clean
        picture, degraded, restored and by the self-ensemble.
    """
    keep: dict[str, list[dict[str, float]]] = defaultdict(list)
    ensemble = []
    for composite in _composites(pictures):
        embedding = restorer.restore(composite.degraded).degradation_embedding

        def restored(how: Restorer, composite: Composite = composite, given: Any = embedding) -> torch.Tensor:
            return how.restore(composite.degraded, degradation_embedding=given).reconstruction.clamp(0, 1)

        whole, turned = restored(restorer), restored(restorer.controlled(self_ensemble=True))
        seen = {"degraded": composite.degraded, "restored": whole, "ensemble": turned}
        ensemble.append({name: float(psnr(each, composite.clean, 1)) for name, each in seen.items()})
        for kept, wanted in composite.alone.items():
            row = {"psnr_degraded": float(psnr(composite.degraded, wanted, 1))}
            for name, each in {"whole": whole, "kept": restored(replace(restorer, kept=(kept,)))}.items():
                row[f"psnr_{name}"] = float(psnr(each, wanted, 1))
                row[f"repaired_{name}"], row[f"lost_{name}"] = measure_shares(composite, each, kept)
            keep[kept].append(row)
    rows = {kind: _mean(keep[kind]) for kind in KINDS if kind in keep}
    return {"keep": {**rows, "mean": _mean(list(rows.values()))}, "ensemble": _mean(ensemble)}


def _composites(pictures: list[np.ndarray]) -> Iterator[Composite]:
    pairs = list(combinations(KINDS, 2))
    for place, clean in enumerate(tqdm(pictures, unit="picture", disable=None)):
        for kinds in pairs:
            yield degrade(clean, kinds, place)


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def load_pictures(folder: Path, every: int, count: int, side: int) -> list[np.ndarray]:
    """Load the middles of photographs that training holds out.

    Args:
        folder: of photographs.
        every: training holds out each of so many, from the first.
        count: how many to load, spread over those.
        side: of the square that is cut out, pixels.

    Returns:
        Pictures, (side, side, 3) float32 in [0, 1].
    """
    photographs = list_photographs(folder)[::every]
    pictures = []
    for photograph in photographs[:: max(len(photographs) // count, 1)][:count]:
        with Image.open(photograph.path) as picture:
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            pictures.append(to_float(np.asarray(picture.convert("RGB").crop((left, top, left + side, top + side)))))
    return pictures


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    clean: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of clean photographs.")],
    model: Annotated[list[Path], typer.Option(exists=True, file_okay=False, help="Folder of a model; repeatable.")],
    every: Annotated[int, typer.Option(min=1, help="Training holds out each of so many.")] = 20,
    count: Annotated[int, typer.Option(min=1, help="Photographs.")] = 12,
    side: Annotated[int, typer.Option(min=32, help="Of the square that is cut out of each, pixels.")] = 224,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "steering.json",
) -> None:
    """Print what keeping a kind does to it and to the other, and what the self-ensemble gains, and write it."""
    pictures = load_pictures(clean, every, count, side)
    found = []
    for folder in model:
        restorer = Restorer.from_pretrained(folder, dtype="float32")
        found.append({"model": name_weights(folder), **measure(restorer, pictures)})
    results = {"pictures": len(pictures), "side": side, "severity": SEVERITY, "seed": SEED, "models": found}
    write_text(output, json.dumps(results, indent=2) + "\n")
    for grid in (steering_grid(results), ensemble_grid(results)):
        typer.echo(format_columns(grid))


if __name__ == "__main__":
    app()
