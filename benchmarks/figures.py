"""Draw two figures of the paper from trained restorers: `python -m benchmarks.figures frequencies --model DIR ...`.

`frequencies` is Figure 5: how far the spectra of restored pictures lie from those of clean ones. `step-sizes` is v3's
Figure 5: the scans' step sizes Delta_dp under each degradation. Both degrade the middle of clean pictures in all seven
ways at severity 0.5. Each writes its numbers as JSON, and the figure beside it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.analysis import read_prompts
from benchmarks.embedding import MIDDLE, SEED, Spoiled, spoil
from benchmarks.files import RESULTS, write_text
from dataset_scripts.__main__ import save_figure
from dataset_scripts.degradations import KINDS
from dataset_scripts.synthetic_restoration import list_photographs
from modeling_dpmambair import DPMambaIRModel
from modeling_dpmambair.restorer_dpmambair import load_model

BINS = 32  # rings of frequencies from 0 to Nyquist's


def radial_spectrum(picture: Tensor) -> np.ndarray:
    """Average the logarithm of a picture's amplitudes over rings of equal frequency.

    Args:
        picture: (3, H, W), RGB in [0, 1].

    Returns:
        Mean decimal logarithm of the grey picture's amplitudes in each ring, (BINS,); corners lie beyond the last.
    """
    amplitudes = np.abs(np.fft.fft2(picture.mean(0).numpy().astype(np.float64))) + 1e-6
    rows, columns = (np.fft.fftfreq(side) for side in amplitudes.shape)
    rings = (np.hypot(rows[:, None], columns) * 2 * BINS).astype(int)
    inside = rings < BINS
    sums = np.bincount(rings[inside], np.log10(amplitudes[inside]), BINS)
    return sums / np.maximum(np.bincount(rings[inside], minlength=BINS), 1)


@torch.no_grad()
def measure_frequencies(models: Mapping[str, DPMambaIRModel], pictures: Iterable[Spoiled]) -> dict[str, list[float]]:
    """Measure how far degraded and restored spectra lie from the clean ones.

    Args:
        models: restorers, by name.
        pictures: what they restore.

    Returns:
        For "degraded" and each model the mean over the pictures of its logarithm minus the clean picture's, by ring.
    """
    gaps: dict[str, list[np.ndarray]] = {name: [] for name in ("degraded", *models)}
    for one in pictures:
        clean = radial_spectrum(one.clean[0])
        gaps["degraded"].append(radial_spectrum(one.degraded[0]) - clean)
        for name, model in models.items():
            restored = model(one.degraded).reconstruction.clamp(0, 1)
            gaps[name].append(radial_spectrum(restored[0]) - clean)
    return {name: np.mean(rows, axis=0).tolist() for name, rows in gaps.items()}


def draw_frequencies(gaps: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the gaps over the frequency.

    Args:
        gaps: from `measure_frequencies`.
    """
    figure = Figure((7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, gap in gaps.items():
        axes.plot((np.arange(BINS) + 0.5) / (2 * BINS), gap, label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="frequency, cycles a pixel", ylabel="decades of amplitude above clean")
    axes.legend()
    return figure


def measure_step_sizes(model: DPMambaIRModel, pictures: Iterable[Spoiled]) -> dict[str, list[float]]:
    """Measure the effective step sizes of the scans, averaged over blocks, positions and channels.

    Args:
        model: the restorer.
        pictures: what it restores.

    Returns:
        For each kind one mean a picture.

    Raises:
        ValueError: the model has no scans.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for one in pictures:
        readings = read_prompts(model, one.degraded)
        if not readings:
            raise ValueError("`model` must have scans, got none; name a restorer with DP-SSM blocks")
        found[KINDS[one.kind]].append(float(np.mean([float(prompts.delta_mean) for prompts in readings.values()])))
    return found


def draw_step_sizes(found: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the step sizes of all pictures, a box for each kind.

    Args:
        found: from `measure_step_sizes`.
    """
    figure = Figure((7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.boxplot(list(found.values()), tick_labels=[kind.replace("_", " ") for kind in found])
    axes.set(ylabel="mean step size")
    return figure


def spoil_middle(clean: Path) -> Iterable[Spoiled]:
    """Degrade the middle of each picture of a folder in all ways.

    Args:
        clean: folder of clean pictures.
    """
    return spoil([photograph.path for photograph in list_photographs([clean])], SEED, MIDDLE)


def write(content: dict[str, Any], figure: Figure, output: Path) -> None:
    """Write a figure and its numbers, the numbers last.

    Args:
        content: the numbers.
        figure: the figure.
        output: JSON file; the figure goes beside it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, output.with_suffix(".png"))
    write_text(output, json.dumps(content, indent=2) + "\n")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Clean = Annotated[Path, typer.Option(exists=True, file_okay=False, help="Clean pictures.")]


@app.command()
def frequencies(
    model: Annotated[list[Path], typer.Option(exists=True, file_okay=False, help="Folder of a restorer; repeatable.")],
    clean: Clean,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "frequencies.json",
) -> None:
    """Compare the spectra of clean, degraded and restored pictures (Figure 5)."""
    gaps = measure_frequencies({folder.name: load_model(folder) for folder in model}, spoil_middle(clean))
    write({"clean": clean.resolve().name, "gaps": gaps}, draw_frequencies(gaps), output)


@app.command()
def step_sizes(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of a restorer.")],
    clean: Clean,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "step_sizes.json",
) -> None:
    """Compare the step sizes of the scans by degradation (v3, Figure 5)."""
    found = measure_step_sizes(load_model(model), spoil_middle(clean))
    write({"clean": clean.resolve().name, "step_sizes": found}, draw_step_sizes(found), output)


if __name__ == "__main__":
    app()
