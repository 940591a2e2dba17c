"""Measure how well a model names degradations: `python -m benchmarks.description --model DIR --clean DIR`.

Each clean picture is degraded in each way once at severity 0.5, as in the benchmark synthetic7: the kind with the
highest presence must be the true one. And once at a severity of its own: the told severity must rank as the true one.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from torchmetrics.functional import spearman_corrcoef
from tqdm import tqdm

from benchmarks.description_table import description_grid
from benchmarks.files import RESULTS, name_weights, write_text
from benchmarks.rendering import format_columns
from dataset_scripts.degradations import KINDS, apply_degradations, sample_degradation
from dataset_scripts.synthetic_restoration import list_photographs
from dataset_scripts.transforms import to_float, to_tensor
from modeling_dpmambair import DPMambaIRModel

SEED = 2504
MIDDLE = 0.5
LOWEST, HIGHEST = 0.1, 0.9


def describe(model: DPMambaIRModel, clean: np.ndarray, kind: str, severity: float, place: int) -> tuple[int, float]:
    """Degrade a picture and ask the model about it.

    Args:
        model: carries the head that describes.
        clean: (H, W, 3) float32 in [0, 1].
        kind: one of `KINDS`.
        severity: in [0, 1].
        place: the picture's position, which with kind and seed fixes the degradation.

    Returns:
        Index of the kind found most likely, and the severity told for the true kind.
    """
    rng = np.random.default_rng((SEED, KINDS.index(kind), place))
    degraded = apply_degradations(clean, [sample_degradation(kind, severity, rng)])
    pixels = torch.round(to_tensor(degraded) * 255) / 255  # as an 8-bit file holds it
    told = model.describe(pixels[None])
    return int(told.presence.argmax()), float(told.severity[0, KINDS.index(kind)])


def measure(model: DPMambaIRModel, folder: Path) -> dict[str, Any]:
    """Measure accuracy and rank correlation over a folder of clean pictures.

    Args:
        model: carries the head that describes.
        folder: of clean pictures.

    Returns:
        `pictures`; `confusion`: true kind to counts of told kinds; `accuracy` and `spearman`: by kind, and `mean`.
    """
    photographs = list_photographs(folder)
    confusion = {kind: dict.fromkeys(KINDS, 0) for kind in KINDS}
    severities: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    draw = np.random.default_rng(SEED)
    for place, photograph in enumerate(tqdm(photographs, unit="picture", disable=None)):
        with Image.open(photograph.path) as picture:
            clean = to_float(np.asarray(picture.convert("RGB")))
        for kind in KINDS:
            found, _ = describe(model, clean, kind, MIDDLE, place)
            confusion[kind][KINDS[found]] += 1
            severity = float(draw.uniform(LOWEST, HIGHEST))
            severities[kind].append((severity, describe(model, clean, kind, severity, place)[1]))
    count = len(photographs)
    accuracy = {kind: confusion[kind][kind] / count for kind in KINDS}
    spearman = {kind: float(spearman_corrcoef(*torch.tensor(pairs).T)) for kind, pairs in severities.items()}
    for scores in (accuracy, spearman):
        scores["mean"] = sum(scores.values()) / len(KINDS)
    return {"pictures": count, "confusion": confusion, "accuracy": accuracy, "spearman": spearman}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the trained model.")],
    clean: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of clean pictures.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "description.json",
) -> None:
    """Print accuracy and severity correlation of every kind, and write them."""
    loaded = DPMambaIRModel.from_pretrained(model).eval()
    found = measure(loaded, clean)
    results = {"model": name_weights(model), "clean": clean.resolve().name, "seed": SEED, **found}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(description_grid(results)))


if __name__ == "__main__":
    app()
