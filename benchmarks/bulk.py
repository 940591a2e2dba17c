"""Time many small pictures: `python -m benchmarks.bulk`.

The command, as one process and as one for each core, against a plain loop over the pipeline. All compute in float32
and write PNG files; each way is timed from its imports to its last file. Then the command is killed twice at random
moments and begun again, and its files are compared with those of the clean run.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from tqdm import tqdm

from benchmarks.bulk_table import bulk_grid
from benchmarks.files import RESULTS, write_text
from benchmarks.rendering import format_columns
from dpmambair.machine import describe_machine
from dpmambair.shipped import SHIPPED

ROOT = Path(__file__).resolve().parents[1]
LOOP = """
import sys
from pathlib import Path
from transformers import pipeline
import modeling_dpmambair
degraded, restored, model = map(Path, sys.argv[1:])
restore = pipeline("image-restoration", model=str(model), dtype="float32", device="cpu")
restored.mkdir()
for path in sorted(degraded.iterdir()):
    restore(str(path)).save(restored / path.name)
"""
MODULE = ("-m", "dpmambair.restore")
LAUNCHER = ("-m", "torch.distributed.run", "--nproc-per-node")


def list_ways(cores: int, together: int) -> dict[str, tuple[int, list[str]]]:
    """Return the ways to restore a folder: how many processes share the cores, and the arguments before the folder's.

    Args:
        cores: of the machine.
        together: pictures that are restored at once, in the way that does so.
    """
    alone, launched = [*MODULE], [*LAUNCHER, str(cores), *MODULE]
    return {
        "loop over the pipeline": (1, ["-c", LOOP]),
        "command": (1, alone),
        f"command, --batch-size {together}": (1, [*alone, "--batch-size", str(together)]),
        "command, a process for each core": (cores, launched),
    }


def make_command(arguments: Sequence[str], degraded: Path, restored: Path, model: Path) -> list[str]:
    """Return the command line of a way.

    Args:
        arguments: of the way.
        degraded: folder of the pictures.
        restored: folder to write.
        model: folder of the model.
    """
    if LOOP in arguments:
        return [sys.executable, *arguments, str(degraded), str(restored), str(model)]
    options = ["--model", str(model), "--dtype", "float32", "--device", "cpu"]
    return [sys.executable, *arguments, str(degraded), "--output", str(restored), *options]


def make_pictures(folder: Path, number: int, side: int) -> None:
    """Write squares cut from the example pictures at random places.

    Args:
        folder: to write into.
        number: of pictures.
        side: pixels.
    """
    generator = np.random.default_rng(0)
    sources = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((ROOT / "examples").glob("*.png"))]
    folder.mkdir(parents=True)
    for index in range(number):
        source = sources[index % len(sources)]
        top, left = (generator.integers(0, length - side + 1) for length in source.shape[:2])
        Image.fromarray(source[top : top + side, left : left + side]).save(folder / f"{index:06}.png")


def run(command: Sequence[str], threads: int) -> float:
    """Run a command to its end, with so many threads a process; returns seconds.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[:4]} failed: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - start


def kill_after(command: Sequence[str], threads: int, restored: Path, number: int) -> int:
    """Kill a command when it has written so many files; returns how many it had.

    Args:
        command: to run.
        threads: of each process.
        restored: folder that it writes.
        number: of files.

    Raises:
        RuntimeError: it ended before.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while count_files(restored) < number:
        if process.poll() is not None:
            raise RuntimeError(f"{command[:4]} ended before it was killed")
        time.sleep(0.001)
    process.kill()
    process.wait()
    return count_files(restored)


def count_files(folder: Path) -> int:
    """Return how many restored pictures are in a folder."""
    return len(list(folder.glob("[!.]*.png")))


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of all restored pictures in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def largest_difference(first: Path, second: Path) -> int:
    """Return by how many levels of 255 the pictures of two folders differ at most.

    Processes of another number of threads round otherwise.

    Args:
        first: folder of pictures.
        second: folder of pictures of the same names.
    """
    pairs = ([Image.open(folder / path.name) for folder in (first, second)] for path in sorted(first.glob("*.png")))
    return max(int(np.abs(np.subtract(*map(np.int16, pair))).max()) for pair in pairs)


def measure_kills(folder: Path, model: Path, cores: int, number: int) -> dict[str, Any]:
    """Kill the command twice at random, begin it again, and compare its files with those of the clean run.

    Args:
        folder: holds `degraded` and, of the clean run, `command`.
        model: folder of the model.
        cores: threads.
        number: of pictures.
    """
    generator, restored = random.Random(0), folder / "killed"
    command = make_command(MODULE, folder / "degraded", restored, model)
    thresholds = [generator.randrange(1, number // 2), generator.randrange(number // 2, 9 * number // 10)]
    kills = [kill_after(command, cores, restored, threshold) for threshold in thresholds]
    run(command, cores)
    return {"kills": kills, "is_equal": read_files(restored) == read_files(folder / "command")}


def measure(folder: Path, model: Path, number: int, side: int, together: int) -> dict[str, Any]:
    """Restore pictures in all ways, after one picture in each, which warms up the caches and shows the start.

    Args:
        folder: an empty folder to work in.
        model: folder of the model.
        number: of pictures.
        side: of the pictures, pixels.
        together: pictures that are restored at once, in the way that does so.
    """
    cores = os.cpu_count() or 1
    make_pictures(folder / "degraded", number, side)
    make_pictures(folder / "one", 1, side)
    records = []
    for name, (processes, arguments) in tqdm(list_ways(cores, together).items(), disable=None):
        threads = cores // processes
        start = run(make_command(arguments, folder / "one", folder / f"{name} once", model), threads)
        seconds = run(make_command(arguments, folder / "degraded", folder / name, model), threads)
        written = count_files(folder / name)
        if written != number:
            raise RuntimeError(f"{name} must write {number} files, got {written}")
        records.append({"way": name, "processes": processes, "threads": threads, "start": start, "seconds": seconds})
    levels = largest_difference(folder / "command", folder / "command, a process for each core")
    return {"records": records, "levels": levels, "killed": measure_kills(folder, model, cores, number)}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained model.")] = SHIPPED,
    pictures: Annotated[int, typer.Option(min=50, help="How many are restored.")] = 1000,
    side: Annotated[int, typer.Option(min=16, max=232, help="Of the square pictures, pixels.")] = 128,
    together: Annotated[int, typer.Option(min=2, help="Pictures restored at once, in the way that does so.")] = 16,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "bulk.json",
) -> None:
    """Print how fast many small pictures are restored, and whether kills and shards change anything, and write it."""
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), model, pictures, side, together)
    machine = {**describe_machine(), "threads": os.cpu_count()}
    results = {"model": model.resolve().name, "machine": machine, "pictures": pictures, "side": side, **measured}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(bulk_grid(results)))


if __name__ == "__main__":
    app()
