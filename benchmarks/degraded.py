"""How far degraded pictures are from clean ones: `python -m benchmarks.degraded DIR...`.

Each folder holds pairs in `degraded` and `clean`, and is read by the builder like any pairs of one's own. Its PSNR,
the mean of its pictures' on 8-bit RGB, is what a restorer has to beat, and tells whether a sample is what it claims.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tqdm import tqdm

from benchmarks.files import RESULTS, write_text
from benchmarks.rendering import format_columns
from dataset_scripts import load_restoration_dataset
from restoration_metrics import psnr

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def measure(folder: Path) -> dict[str, Any]:
    """Score the degraded pictures of a folder.

    Args:
        folder: holds `degraded` and `clean`.

    Returns:
        `folder` and `pairs`; `psnr`, `lowest` and `highest`, dB; `of_mean_error`, the PSNR of the mean squared error
        over all pictures, which some report instead.
    """
    stream = load_restoration_dataset("paired_folders", folder, split="test", streaming=True, strict=True)
    pairs = tqdm(stream, desc=folder.name, unit="pair", disable=None)
    found = [float(psnr(_to_batch(pair["degraded"]), _to_batch(pair["clean"]), 255)) for pair in pairs]
    mean_error = sum(10 ** (-value / 10) for value in found) / len(found)
    return {
        "folder": folder.resolve().name,
        "pairs": len(found),
        "psnr": sum(found) / len(found),
        "lowest": min(found),
        "highest": max(found),
        "of_mean_error": -10 * math.log10(mean_error),
    }


def _to_batch(picture: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


@app.command()
def main(
    folders: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Folders of pairs.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "degraded.json",
) -> None:
    """Print the PSNR of the degraded pictures of every folder, and write it."""
    results = [measure(folder) for folder in folders]
    write_text(output, json.dumps(results, indent=2) + "\n")
    rows = [["folder", "pairs", "mean PSNR (dB)", "lowest", "highest", "of the mean error"]]
    for found in results:
        numbers = [f"{found[key]:.2f}" for key in ("psnr", "lowest", "highest", "of_mean_error")]
        rows.append([found["folder"], str(found["pairs"]), *numbers])
    typer.echo(format_columns(rows))


if __name__ == "__main__":
    app()
