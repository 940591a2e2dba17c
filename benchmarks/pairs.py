"""Measure a restorer on folders of test pairs: `python -m benchmarks.pairs DIR... --model MODEL`.

Each folder holds the pairs of a published test set, or a sample of it, in `degraded` and `clean`. Unlike the benchmark
of `evaluate_accelerate.py`, nothing here was degraded by this project.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from benchmarks.files import RESULTS, hash_weights, write_text
from benchmarks.pairs_table import pairs_grid
from benchmarks.rendering import format_columns
from dataset_scripts import load_restoration_dataset
from dpmambair.machine import describe_machine
from modeling_dpmambair import Restorer
from restoration_metrics.scores import average, score

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def measure(restorer: Restorer, folder: Path) -> dict[str, Any]:
    """Restore and score the pairs of a folder.

    Args:
        restorer: restores.
        folder: holds `degraded` and `clean`.

    Returns:
        `folder`; `pictures` and the means of `restoration_metrics.scores.average`.
    """
    stream = load_restoration_dataset("paired_folders", folder, split="test", streaming=True, strict=True)
    pairs = tqdm(stream, desc=folder.name, unit="pair", disable=None)
    scores = [score(pair["degraded"], restorer(pair["degraded"]), pair["clean"]) for pair in pairs]
    return {"folder": folder.resolve().name, **average(scores)}


@app.command()
def main(
    folders: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Folders of pairs.")],
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the trained model.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "pairs.json",
) -> None:
    """Print PSNR and SSIM before and after restoring, averaged over every folder, and write them."""
    restorer = Restorer.from_pretrained(model, dtype="float32")
    results = {
        "model": {"name": model.resolve().name, "dtype": "float32", "weights_sha256": hash_weights(model)},
        "machine": describe_machine(restorer.model.device.type, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "sets": [measure(restorer, folder) for folder in folders],
    }
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(pairs_grid(results)))


if __name__ == "__main__":
    app()
