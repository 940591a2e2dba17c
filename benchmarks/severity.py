"""Measure how a model's gain depends on severity: `python -m benchmarks.severity --clean DIR`.

The same weather falls on the same pictures at several severities, drawn as in the benchmark synthetic7. Severity 0 is
the clean picture itself, which should come back unchanged.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from benchmarks.files import RESULTS, name_weights, write_text
from benchmarks.plots import BLUE, DPI, ORANGE
from benchmarks.rendering import format_columns
from benchmarks.severity_table import severity_grid
from dataset_scripts.__main__ import save_figure
from dataset_scripts.degradations import KINDS
from dpmambair.shipped import SHIPPED
from evaluation.methods import Restore
from evaluation.pair_sets import Benchmark, Entry, open_benchmark
from evaluation.summary import make_strict
from modeling_dpmambair import Restorer
from restoration_metrics import psnr

SEED = 2504
SEVERITIES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)


def measure(restore: Restore, clean: Path, limit: int | None = None) -> dict[str, Any]:
    """Degrade pictures by each kind at each severity, restore them, and score both.

    Args:
        restore: the model.
        clean: folder of the clean pictures.
        limit: only the first so many.

    Returns:
        `pictures`, their number; and `kinds`: of each, for every severity `severity`, `psnr_degraded` and
        `psnr_restored`, means over the pictures in dB, infinite where nothing differs.
    """
    kinds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for severity in tqdm(SEVERITIES, unit="severity", disable=None):
        for each in open_benchmark(Benchmark("severity", "", KINDS, severity, SEED), clean):
            entries = each.entries[:limit]
            scores = [_score(restore, entry) for entry in tqdm(entries, desc=each.task, leave=False, disable=None)]
            degraded, restored = map(fmean, zip(*scores, strict=True))
            kinds[each.task].append({"severity": severity, "psnr_degraded": degraded, "psnr_restored": restored})
    return {"pictures": len(entries), "kinds": kinds}


def _score(restore: Restore, entry: Entry) -> tuple[float, float]:
    degraded, clean = entry.read()
    pictures = [_to_batch(each) for each in (degraded, restore(degraded))]
    before, after = (float(psnr(each, _to_batch(clean), 255)) for each in pictures)
    return before, after


def _to_batch(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


def draw(results: dict[str, Any]) -> Figure:
    """Draw PSNR over severity before and after restoring, a panel for each kind.

    Args:
        results: what this command wrote.
    """
    figure = Figure(figsize=(10, 5), dpi=DPI, layout="constrained")
    *panels, last = figure.subplots(2, 4, sharex=True, sharey=True).flat
    for axes, (kind, points) in zip(panels, results["kinds"].items(), strict=True):
        _draw_kind(axes, points)
        axes.set_title(kind.replace("_", " "))
    panels[3].tick_params("x", labelbottom=True)  # nothing below it has its labels
    last.axis("off")
    title = f"{results['model']['name']}\n(severity 0: clean)"
    last.legend(*axes.get_legend_handles_labels(), loc="center", title=title)
    figure.supxlabel("severity")
    figure.supylabel("PSNR (dB)")
    return figure


def _draw_kind(axes: Axes, points: list[dict[str, float | None]]) -> None:
    severities = [one["severity"] for one in points]
    # Null, as of the clean picture itself, becomes nan, which is not drawn.
    before, after = (np.array([one[f"psnr_{when}"] for one in points], float) for when in ("degraded", "restored"))
    axes.plot(severities, before, "x--", color=ORANGE, label="degraded")
    axes.plot(severities, after, "o-", color=BLUE, markersize=4, label="restored")
    for is_better, colour, label in ((after >= before, BLUE, "gain"), (after < before, ORANGE, "loss")):
        axes.fill_between(
            severities, before, after, where=is_better, color=colour, alpha=0.2, interpolate=True, label=label
        )
    axes.set_xticks(severities, [f"{severity:g}" for severity in severities], fontsize="small")
    axes.grid(visible=True, alpha=0.3)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    clean: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of clean pictures.")],
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of the model.", show_default="the shipped one")
    ] = SHIPPED,
    limit: Annotated[int, typer.Option(min=1, help="Measure only the first so many pictures.")] = 20,
    output: Annotated[Path, typer.Option(help="JSON file to write; the plot goes beside it.")] = (
        RESULTS / "severity.json"
    ),
) -> None:
    """Print what a model gains at each severity of each kind of degradation, and write and plot it."""
    restorer = Restorer.from_pretrained(model, dtype="float32")
    found = measure(restorer, clean, limit)
    about = {"model": name_weights(model)}
    results = make_strict({**about, "clean": clean.resolve().name, "seed": SEED, **found})
    write_text(output, json.dumps(results, indent=2, allow_nan=False) + "\n")
    save_figure(draw(results), output.with_suffix(".png"))
    typer.echo(format_columns(severity_grid(results)))


if __name__ == "__main__":
    app()
