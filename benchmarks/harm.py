"""Measure what a model does where it should do little: `python -m benchmarks.harm --clean DIR --pairs DIR`.

Clean pictures should come back as they are, grey ones grey, and at strength 0 nothing may change. Most pictures are
JPEG files, so pairs are restored once as they are and once from a JPEG file of good quality.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from tqdm import tqdm

from benchmarks.files import RESULTS, name_weights, write_text
from benchmarks.harm_table import render_harm
from dpmambair.machine import describe_machine
from dpmambair.shipped import SHIPPED
from evaluation.pair_sets import open_folders
from evaluation.summary import make_strict
from modeling_dpmambair import Restorer
from restoration_metrics import psnr

QUALITY = 90
# dB. A clean picture that comes back below it counts as mistaken for a degraded one.
BOUND = 34

Restore = Callable[..., Image.Image]


def measure_clean(restore: Restore, folder: Path, limit: int | None = None) -> dict[str, Any]:
    """Restore pictures that nothing spoiled.

    Args:
        restore: the model; takes a picture and `strength`.
        folder: of clean pictures.
        limit: only the first so many.

    Returns:
        `folder`, `pictures`; `psnr` and `lowest`, mean and lowest against the pictures themselves, dB; `below`, how
        many are under `BOUND`; `tint`, the greatest difference between the channels of a grey picture after
        restoring, levels; `changed`, how many pictures are not the same at strength 0.
    """
    found, tint, changed = [], 0, 0
    for entry in tqdm(open_folders(folder, folder).entries[:limit], desc=folder.name, unit="picture", disable=None):
        clean, _ = entry.read()
        found.append(_score(restore(clean), clean))
        grey = np.asarray(restore(clean.convert("L").convert("RGB")), int)
        tint = max(tint, int(np.ptp(grey, axis=-1).max()))
        changed += not np.array_equal(restore(clean, strength=0), clean)
    return {
        "folder": folder.resolve().name,
        "pictures": len(found),
        "psnr": fmean(found),
        "lowest": min(found),
        "below": sum(score < BOUND for score in found),
        "tint": tint,
        "changed": changed,
    }


def measure_pairs(restore: Restore, folder: Path, limit: int | None = None) -> dict[str, Any]:
    """Restore degraded pictures as they are, and from JPEG files.

    Args:
        restore: the model.
        folder: holds `degraded` and `clean`.
        limit: only the first so many pairs.

    Returns:
        `folder`, `pairs`, and mean PSNR against the clean pictures, dB: `degraded`, `restored`, `restored_from_jpeg`.
    """
    found = []
    pairs = open_folders(folder / "degraded", folder / "clean").entries
    for entry in tqdm(pairs[:limit], desc=folder.name, unit="pair", disable=None):
        degraded, clean = entry.read()
        found.append([_score(each, clean) for each in (degraded, restore(degraded), restore(_save_as_jpeg(degraded)))])
    means = map(fmean, zip(*found, strict=True))
    names = ("degraded", "restored", "restored_from_jpeg")
    return {"folder": folder.resolve().name, "pairs": len(found), **dict(zip(names, means, strict=True))}


def _save_as_jpeg(picture: Image.Image) -> Image.Image:
    file = BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return Image.open(file).convert("RGB")


def _score(picture: Image.Image, clean: Image.Image) -> float:
    return float(psnr(*(torch.from_numpy(np.array(each)).permute(2, 0, 1)[None] for each in (picture, clean)), 255))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    clean: Annotated[list[Path], typer.Option(exists=True, file_okay=False, help="Folder of clean pictures.")],
    pairs: Annotated[list[Path], typer.Option(exists=True, file_okay=False, help="Holds `degraded` and `clean`.")],
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of the model.", show_default="the shipped one")
    ] = SHIPPED,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure only the first so many pictures of each.")] = None,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "harm.json",
) -> None:
    """Print what becomes of clean pictures, and how much a JPEG file costs, and write it."""
    restorer = Restorer.from_pretrained(model, device="cpu", dtype="float32")
    results = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "model": name_weights(model),
        "quality": QUALITY,
        "bound": BOUND,
        "clean": [measure_clean(restorer, folder, limit) for folder in clean],
        "pairs": [measure_pairs(restorer, folder, limit) for folder in pairs],
    }
    results = make_strict(results)
    write_text(output, json.dumps(results, indent=2, allow_nan=False) + "\n")
    typer.echo(render_harm(results))


if __name__ == "__main__":
    app()
