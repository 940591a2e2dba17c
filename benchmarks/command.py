"""Time the command line from file to file: `python -m benchmarks.command`.

A process of its own restores each picture, as a user would do it: imports, weights, decoding, restoring, encoding.
It needs nothing beyond the package, so that it can run in a user's environment: in a developer's there is more to
import for transformers, which takes what it finds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from tqdm import tqdm

from benchmarks.command_table import command_grid
from benchmarks.files import RESULTS, write_text
from benchmarks.rendering import format_columns
from dpmambair.machine import describe_machine
from dpmambair.shipped import SHIPPED

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples/rain.png"
COMMAND = (sys.executable, "-m", "dpmambair.restore")
# Width and height, pixels: an icon, and a photograph of four megapixels.
SIZES = ((256, 256), (2464, 1640))


def command_of(picture: Path, model: Path, output: Path) -> tuple[str, ...]:
    """Return the command that restores a picture into a folder: a new one, as it leaves what it has done before."""
    return (*COMMAND, str(picture), "-o", str(output), "--model", str(model), "--dtype", "float32")


def run(command: Sequence[str]) -> tuple[float, int]:
    """Run a command; returns seconds, and the most memory that it held, bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)  # tells what this process used, not all children so far
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed; run it to see why")
    return time.perf_counter() - start, used.ru_maxrss * 1024


def measure(size: tuple[int, int], model: Path, repeats: int) -> dict[str, Any]:
    """Restore a picture of this width and height some times, after one that warms up the caches."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "picture.png")
        with Image.open(EXAMPLE) as example:
            example.convert("RGB").resize(size).save(picture)
        turns = tqdm(range(repeats + 1), disable=None)
        runs = [run(command_of(picture, model, Path(folder, f"restored{turn}"))) for turn in turns]
    seconds, memory = zip(*runs[1:], strict=True)
    return {"width": size[0], "height": size[1], "seconds": statistics.median(seconds), "memory": max(memory)}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained model.")] = SHIPPED,
    repeats: Annotated[int, typer.Option(min=1, help="Runs that count, after one that warms up.")] = 3,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "command.json",
) -> None:
    """Print seconds and memory of restoring a small and a large picture, and write them."""
    records = [measure(size, model, repeats) for size in SIZES]
    results = {"model": model.resolve().name, "machine": describe_machine(), "repeats": repeats, "records": records}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(command_grid(results)))


if __name__ == "__main__":
    app()
