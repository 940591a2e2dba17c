"""What exporting costs: `python -m benchmarks.export`. Sizes of files, agreement with the model, quality and speed.

Every kind of file is made by `export_model.py`, as a user makes it, and restores photographs that scikit-image
ships, degraded in all seven ways. Its PSNR against the model says what the export changes, its loss against the clean
photographs whether that matters. Of a kind that is refused the results hold the command's reason.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by onnxruntime when it is imported

import numpy as np
import onnxruntime
import torch
import typer
from tqdm import tqdm

from benchmarks.export_table import export_grid
from benchmarks.failures import PHOTOGRAPHS, load_photograph
from benchmarks.files import RESULTS, name_weights, write_text
from benchmarks.rendering import format_columns
from dataset_scripts import KINDS
from dataset_scripts.degradations import apply_degradations, sample_degradation
from dataset_scripts.transforms import to_float, to_tensor
from dpmambair.machine import describe_machine
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import DPMambaIRModel
from restoration_metrics import psnr

ROOT = Path(__file__).resolve().parents[1]
SEVERITY, SEED = 0.5, 2504
# Sides of the square pictures that are timed.
SIDES = (128, 256, 512)
# What each file is made with.
VARIANTS = {
    "ONNX, float32": (),
    "ONNX, float16": ("--dtype", "float16"),
    "ONNX, bfloat16": ("--dtype", "bfloat16"),
    "ONNX, 8-bit weights": ("--int8", "weights"),
    "ONNX, dynamic 8 bits": ("--int8", "dynamic"),
    "torch.export, float32": ("--format", "torch-export"),
    "AOTInductor, float32": ("--format", "aoti"),
}

Restore = Callable[[torch.Tensor], torch.Tensor]
Pairs = list[tuple[torch.Tensor, torch.Tensor]]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def make_pairs() -> Pairs:
    """Degrade each photograph in each way; returns degraded and clean, (1, 3, H, W), RGB in [0, 1]."""
    pairs = []
    for place, name in enumerate(PHOTOGRAPHS):
        clean = to_float(np.asarray(load_photograph(name)))
        for number, kind in enumerate(KINDS):
            drawn = sample_degradation(kind, SEVERITY, np.random.default_rng((SEED, number, place)))
            pairs.append(tuple(to_tensor(each)[None] for each in (apply_degradations(clean, [drawn]), clean)))
    return pairs


def make_file(folder: Path, path: Path, arguments: tuple[str, ...]) -> None:
    """Export a model, as a user does.

    Args:
        folder: of the model.
        path: file to write.
        arguments: further ones of the command.

    Raises:
        ValueError: the command refused; its last words.
        RuntimeError: it crashed.
    """
    command = [sys.executable, str(ROOT / "export_model.py"), str(folder), "--output", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    _, is_refused, reason = done.stderr.strip().rpartition("error: ")
    if done.returncode and is_refused:
        raise ValueError(reason)
    if done.returncode:
        raise RuntimeError(f"`export_model.py` must write or refuse {path.name}, got a crash:\n{done.stderr}")


def open_file(path: Path, arguments: tuple[str, ...], threads: int) -> Restore:
    """Open an exported file as a function that restores a picture.

    Args:
        path: of the file.
        arguments: of `make_file`.
        threads: for the computing.
    """
    if "torch-export" in arguments:
        program = torch.export.load(path).module()
    elif "aoti" in arguments:
        program = torch._inductor.aoti_load_package(str(path))
    else:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda degraded: torch.from_numpy(session.run(None, {"pixel_values": degraded.numpy()})[0])
    return lambda degraded: program(pixel_values=degraded)["reconstruction"]


def time_restoring(restore: Restore, sides: list[int], repeats: int) -> dict[str, float]:
    """Time one picture of each size, after one that warms up; medians, seconds."""
    seconds = {}
    for side in sides:
        picture, found = torch.rand(1, 3, side, side), []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            restore(picture)
            found.append(time.perf_counter() - start)
        seconds[str(side)] = statistics.median(found[1:])
    return seconds


def judge(restore: Restore, pairs: Pairs, expected: list[torch.Tensor]) -> dict[str, float]:
    """Compare restorations with the model's and with the clean pictures.

    Args:
        restore: what restores.
        pairs: degraded and clean pictures.
        expected: the model's restorations.

    Returns:
        `psnr`, the mean of the pictures' against the clean ones; `lowest`, the lowest of the pictures' against the
        model's; dB.
    """
    restored = [restore(degraded).clamp(0, 1) for degraded, _ in pairs]
    against_clean = [psnr(found, clean).item() for found, (_, clean) in zip(restored, pairs, strict=True)]
    against_model = [psnr(found, model.clamp(0, 1)).item() for found, model in zip(restored, expected, strict=True)]
    return {"psnr": statistics.fmean(against_clean), "lowest": min(against_model)}


def measure(model: DPMambaIRModel, folder: Path, variants: list[str], sides: list[int], repeats: int) -> list[dict]:
    """Measure the model, then every kind of file.

    Args:
        model: the model, in float32.
        folder: where it was loaded from.
        variants: names out of `VARIANTS`.
        sides: of the square pictures to time.
        repeats: how often to time each.

    Returns:
        For each `name`, `bytes`, `psnr`, `loss`, `lowest` and `seconds`; of a refused one `name` and `refused`.
    """
    pairs, threads = make_pairs(), torch.get_num_threads()

    def restore_eagerly(degraded: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model(degraded).reconstruction

    expected = [restore_eagerly(degraded) for degraded, _ in pairs]
    quality = judge(restore_eagerly, pairs, expected)["psnr"]
    size = (folder / "model.safetensors").stat().st_size
    rows = [{"name": "the model itself", "bytes": size, "psnr": quality}]
    rows[0]["seconds"] = time_restoring(restore_eagerly, sides, repeats)
    for name in tqdm(variants, unit="file", disable=None):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / ("restorer.pt2" if "--format" in VARIANTS[name] else "restorer.onnx")
            try:
                make_file(folder, path, VARIANTS[name])
            except ValueError as error:
                rows.append({"name": name, "refused": str(error)})
                continue
            restore, row = open_file(path, VARIANTS[name], threads), {"name": name, "bytes": path.stat().st_size}
        row |= judge(restore, pairs, expected)
        rows.append({**row, "loss": quality - row["psnr"], "seconds": time_restoring(restore, sides, repeats)})
    return rows


@app.command()
def main(
    model: Annotated[Path, typer.Option(metavar="DIR", help="Folder of a trained model.")] = SHIPPED,
    variant: Annotated[list[str] | None, typer.Option(help="Only this one, beside the model; repeatable.")] = None,
    longest: Annotated[int, typer.Option(min=1, help="Leave out larger pictures.")] = SIDES[-1],
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that warms up.")] = 5,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "export.json",
) -> None:
    """Print sizes, agreement, quality and speed of every kind of exported file, and write them."""
    sides = [side for side in SIDES if side <= longest]
    restorer = DPMambaIRModel.from_pretrained(model, dtype=torch.float32).eval()
    results = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "model": name_weights(model),
        "severity": SEVERITY,
        "seed": SEED,
        "pictures": len(PHOTOGRAPHS) * len(KINDS),
        "files": measure(restorer, model, variant or list(VARIANTS), sides, repeats),
    }
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(export_grid(results)))


if __name__ == "__main__":
    app()
