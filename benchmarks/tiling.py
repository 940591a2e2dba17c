"""Compare tiled with whole restorations: `python -m benchmarks.tiling --model DIR --pictures DIR`.

Clean pictures, enlarged to 1024 x 1024 and degraded in seven ways, are restored whole and in tiles. Seams are sought
in the error: its root mean square in the rows where tiles change over, against that elsewhere. And the peak memory of
restoring is measured, of each model in a process of its own, beside what the package plans with.
"""

import json
import multiprocessing
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image, ImageOps
from tqdm import tqdm

from benchmarks.files import RESULTS, write_text
from benchmarks.machine import measure_memory
from benchmarks.rendering import format_columns
from benchmarks.tiling_table import tiling_grid
from dataset_scripts.degradations import KINDS, apply_degradations, sample_degradation
from dataset_scripts.synthetic_restoration import list_photographs
from dataset_scripts.transforms import to_float, to_tensor
from dpmambair.files import replacing
from dpmambair.machine import describe_machine
from dpmambair.memory import keep_freed_memory
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel, plan_tiles, restore_tiled
from modeling_dpmambair.large_pictures_dpmambair import bytes_needed
from restoration_metrics.figures import join_pictures

MODELS = Path(__file__).resolve().parents[1] / "configuration" / "model"
SIDE, SEED, SEVERITY = 1024, 2504, 0.5
OVERLAPS = (16, 32, 64)
# Factor on the differences that the picture shows.
GAIN = 32


def degrade(path: str, kind: str, place: int, side: int) -> torch.Tensor:
    """Enlarge a clean picture to a square and degrade it, to 8 bit, (1, 3, side, side)."""
    with Image.open(path) as picture:
        clean = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    rng = np.random.default_rng((SEED, KINDS.index(kind), place))
    degraded = apply_degradations(to_float(np.asarray(clean)), [sample_degradation(kind, SEVERITY, rng)])
    return torch.round(to_tensor(degraded) * 255)[None] / 255


@torch.no_grad()
def restore_apart(model: DPMambaIRModel, degraded: torch.Tensor, tile: tuple[int, int], overlap: int) -> torch.Tensor:
    """Restore tiles that share nothing, each with an embedding of its own, and blend them."""
    restored = torch.zeros_like(degraded)
    for part in plan_tiles(*degraded.shape[2:], tile, overlap):
        part.of(restored).add_(model(part.of(degraded)).reconstruction * part.weights)
    return restored


def compare(tiled: torch.Tensor, whole: torch.Tensor, tile: tuple[int, int], overlap: int) -> dict[str, float]:
    """Measure how far a tiled result is from the whole one.

    Returns:
        `psnr`: dB between the two; `seam`: root mean square of the error in the rows where tiles change over, over
        that of the other rows.
    """
    squares = (tiled - whole).double().square()
    is_seam = torch.zeros(whole.shape[2], dtype=torch.bool)
    for part in plan_tiles(*whole.shape[2:], tile, overlap):
        if part.rows.enter:
            is_seam[part.rows.enter : part.rows.enter + max(overlap // 4, 1)] = True
    rows = squares.mean((0, 1, 3))
    seam = torch.sqrt(rows[is_seam].mean() / rows[~is_seam].mean().clamp(min=1e-20))
    return {"psnr": float(-10 * torch.log10(squares.mean().clamp(min=1e-20))), "seam": float(seam)}


def measure(model: DPMambaIRModel, degraded: torch.Tensor, tile: tuple[int, int]) -> tuple[dict, list[torch.Tensor]]:
    """Compare the ways to tile one picture.

    Returns:
        For each overlap the comparison of tiles that `share` and of tiles `apart`; and the whole result with the
        differences of the two at the middle overlap.
    """
    with torch.no_grad():
        whole = model(degraded).reconstruction
    found, shown = {}, [whole]
    for overlap in OVERLAPS:
        share = restore_tiled(model, degraded, tile=tile, overlap=overlap).reconstruction
        apart = restore_apart(model, degraded, tile, overlap)
        ways = {"share": share, "apart": apart}
        found[str(overlap)] = {name: compare(way, whole, tile, overlap) for name, way in ways.items()}
        if overlap == OVERLAPS[len(OVERLAPS) // 2]:
            shown += [0.5 + GAIN * (way - whole) for way in ways.values()]
    return found, shown


def _take_memory(name: str, side: int) -> dict[str, int | None]:
    keep_freed_memory()
    model = DPMambaIRModel(DPMambaIRConfig.from_json_file(MODELS / f"{name}.json")).eval()
    pictures = torch.rand(1, 3, 3 * side, side)
    restore_tiled(model, pictures[..., :136, :64], tile=(96, 64))  # compiles the kernels
    measured = measure_memory(lambda: restore_tiled(model, pictures, tile=(side, side)))
    return {"measured": measured, "planned": bytes_needed(model, side**2)}


def measure_tile(name: str, side: int) -> dict[str, int | None]:
    """Return the bytes that a tile takes at the peak, float32, in a process of its own, and those planned for it.

    Args:
        name: of a configuration in `configuration/model`.
        side: of the tiles.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_take_memory, (name, side))


def to_picture(pixels: torch.Tensor) -> Image.Image:
    """Make a picture of (1, 3, H, W), clamped to [0, 1]."""
    return Image.fromarray((pixels[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the trained model.")],
    pictures: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of clean pictures.")],
    limit: Annotated[int, typer.Option(min=1, help="Take only the first so many pictures.")] = 2,
    side: Annotated[int, typer.Option(min=256, help="Side of the pictures, a multiple of 32.")] = SIDE,
    memory_side: Annotated[int, typer.Option(min=136, help="Side of the tiles whose memory is measured.")] = 512,
    output: Annotated[Path, typer.Option(help="JSON file to write; a picture goes beside it.")] = (
        RESULTS / "tiling.json"
    ),
) -> None:
    """Print how far tiled restorations are from whole ones, and write it with a picture of the differences."""
    restorer, tile = DPMambaIRModel.from_pretrained(model).eval(), (side // 4, side)
    records, shown = [], []
    for place, photograph in enumerate(list_photographs(pictures)[:limit]):
        for kind in tqdm(KINDS, desc=photograph.file_name, disable=None):
            found, views = measure(restorer, degrade(photograph.path, kind, place, side), tile)
            records.append({"picture": photograph.file_name, "kind": kind, "overlaps": found})
            if place == 0:
                shown.append(join_pictures([to_picture(each) for each in views]))
    memory = {name: measure_tile(name, memory_side) for name in ("light", "small", "base")}
    results = {"machine": describe_machine(), "model": model.resolve().name, "side": side, "tile": tile, "gain": GAIN}
    results |= {"memory": memory, "records": records}
    write_text(output, json.dumps(results, indent=2) + "\n")
    with replacing(output.with_suffix(".png")) as unfinished:
        join_pictures(shown, vertical=True).save(unfinished)
    typer.echo(format_columns(tiling_grid(results)))
    rows = [
        [name, *("-" if found is None else f"{found / 2**20:.0f} MiB" for found in one.values())]
        for name, one in memory.items()
    ]
    typer.echo(format_columns([["tile's memory", "measured", "planned"], *rows]))


if __name__ == "__main__":
    app()
