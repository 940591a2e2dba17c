"""Look at the data: `python -m dataset_scripts preview FOLDER -o FILE.png`."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import datasets
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .degradations import KINDS
from .degraded_patches import DegradedPictures
from .synthetic_restoration import load_clean_photographs
from .transforms import center_window, crop

# Rows and columns of the largest part of a picture that is shown, at one pixel for one: smaller, noise would vanish.
PANEL = (320, 480)
DOTS_PER_INCH = 100
SEVERITIES = [0.25, 0.5, 0.9]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Look at the data of image restoration.")


@app.callback()
def _main() -> None:
    # A callback keeps typer from making the only command nameless.
    pass


@app.command()
def preview(
    folder: Annotated[Path, typer.Argument(help="Folder of clean photographs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write, such as preview.png.")],
    severity: Annotated[list[float], typer.Option(help="Severity, 0 to 1; may be repeated.")] = SEVERITIES,
    seed: Annotated[int, typer.Option(help="Seed of the degradations.")] = 0,
) -> None:
    """Draw the seven kinds of degradation, each at several severities beside its clean photograph."""
    try:
        figure = draw_kinds(load_clean_photographs(folder), severity, seed)
        save_figure(figure, output)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def draw_kinds(dataset: datasets.Dataset, severities: Sequence[float], seed: int) -> Figure:
    """Draw a row for each kind: a clean photograph, then the same photograph at each severity.

    Args:
        dataset: has the column `clean`; the rows take its first photographs in turn.
        severities: one column each, 0 to 1.
        seed: of the degradations.
    """
    height, width = (pixels / DOTS_PER_INCH for pixels in PANEL)
    columns = len(severities) + 1
    figure = Figure((columns * width, len(KINDS) * (height + 0.3)), dpi=DOTS_PER_INCH, layout="constrained")
    grid = figure.subplots(len(KINDS), columns, squeeze=False)
    for row, kind in enumerate(KINDS):
        index = row % len(dataset)
        for column, severity in enumerate(severities, start=1):
            pair = DegradedPictures(dataset, kind, severity, seed)[index]
            _show(grid[row, column], pair["pixel_values"], f"{kind}, severity {severity:g}")
        _show(grid[row, 0], pair["labels"], "clean")
    return figure


def _show(axes: Axes, picture: torch.Tensor, title: str) -> None:
    image = picture.permute(1, 2, 0).numpy()
    axes.imshow(crop(image, center_window(*image.shape[:2], *PANEL)))
    axes.set_title(title)
    axes.set_axis_off()


def save_figure(figure: Figure, output: Path) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: what to write.
        output: its suffix chooses the format.

    Raises:
        ValueError: matplotlib does not know the format.
        OSError: the folder is missing or cannot be written to.
    """
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`output` must lie in an existing folder, got {output}; create the folder first")
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        partial = Path(folder, output.name)
        figure.savefig(partial)
        os.replace(partial, output)


if __name__ == "__main__":
    app()
