"""Publish, check and look at the data: `python -m dataset_scripts build|verify|preview NAME FOLDER`."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import datasets
import numpy as np
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import load_restoration_dataset
from .catalog import CORPORA
from .degradation_recipes import RECIPES
from .degradations import KINDS, apply_degradations, sample_degradation
from .pairing import find_faults, find_pairs, format_faults
from .publishing import check_new, write_imagefolder, write_parquet
from .synthetic_restoration import list_photographs, load_clean_photographs
from .transforms import center_window, crop, to_float

# Rows and columns of the largest part of a picture that is shown, at one pixel for one: smaller, noise would vanish.
PANEL = (320, 480)
DOTS_PER_INCH = 100


class Form(StrEnum):
    """How a dataset is published."""

    PARQUET = "parquet"
    IMAGEFOLDER = "imagefolder"


Name = Annotated[str, typer.Argument(help="A corpus, such as rain100l, or a recipe, such as noise_sigma25.")]
Folder = Annotated[Path, typer.Argument(help="The corpus as unpacked, or clean photographs for a recipe.")]
SplitName = Annotated[str | None, typer.Option("--split", help="train or test, of a corpus.")]
Seed = Annotated[int | None, typer.Option(help="Seed of a recipe's draws.")]
SnowMasks = Annotated[Path | None, typer.Option(help="Folder of real snow masks, for a recipe.")]
Depths = Annotated[Path | None, typer.Option(help="Folder of depth maps, for a recipe.")]

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help="Publish, check and look at the data of restoration."
)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def build(
    name: Name,
    data_dir: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    form: Annotated[Form, typer.Option("--format", help="Parquet with the pictures inside, or plain files.")] = (
        Form.PARQUET
    ),
    split: SplitName = None,
    strict: Annotated[bool, typer.Option(help="Fail when a picture cannot be used.")] = False,
    seed: Seed = None,
    snow_masks: SnowMasks = None,
    depths: Depths = None,
) -> None:
    """Write pairs so that plain `datasets.load_dataset` reads them, here or from the Hub."""
    options = {"seed": seed, "snow_masks": snow_masks, "depths": depths}
    with _one_line_errors():
        check_new(output)  # before every picture is read, and perhaps degraded
        dataset = _load(name, data_dir, split, strict=strict, **options)
        write = write_parquet if form is Form.PARQUET else write_imagefolder
        write(dataset, output, str(dataset.split))
        typer.echo(f"{len(dataset)} pairs in {output}")


@app.command()
def verify(name: Name, data_dir: Folder, split: SplitName = None) -> None:
    """Check every file of a corpus, or of clean photographs; fail and list what cannot be used."""
    with _one_line_errors():
        report = _verify_recipe(name, data_dir) if name in RECIPES else _verify_corpus(name, data_dir, split)
    typer.echo(report or "all files can be used")
    if report:
        raise typer.Exit(1)


def _verify_recipe(name: str, data_dir: Path) -> str:
    faults = find_faults([photograph.path for photograph in list_photographs(data_dir)])
    return f"{len(faults)} unreadable:{format_faults(faults)}" if faults else ""


def _verify_corpus(name: str, data_dir: Path, split: str | None) -> str:
    if name not in CORPORA:
        raise ValueError(
            f"`name` must be a corpus ({', '.join(CORPORA)}) or a recipe, got {name!r}; check the spelling"
        )
    splits = CORPORA[name].splits if split is None else (split,)
    reports = (str(find_pairs(CORPORA[name], each, data_dir)) for each in splits)
    return "\n".join(filter(None, reports))


@app.command()
def preview(
    name: Name,
    data_dir: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write, such as preview.png.")],
    split: SplitName = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of pairs.")] = 6,
    severity: Annotated[
        list[float] | None, typer.Option(help="Instead show each kind of a recipe at this severity; may be repeated.")
    ] = None,
    seed: Seed = None,
    snow_masks: SnowMasks = None,
    depths: Depths = None,
) -> None:
    """Draw pairs of a corpus or of a recipe, or a recipe's kinds at several severities."""
    with _one_line_errors():
        if severity:
            figure = draw_kinds(load_clean_photographs(data_dir), _kinds_of(name), severity, seed or 0)
        else:
            options = {"seed": seed, "snow_masks": snow_masks, "depths": depths}
            # A stream makes only the pairs that are shown.
            stream = _load(name, data_dir, split, streaming=True, **options)
            figure = draw_pairs(list(stream.take(pairs)))
        save_figure(figure, output)


def _load(name: str, data_dir: Path, split: str | None, **options: object) -> datasets.Dataset:
    given = {option: value for option, value in options.items() if value is not None}
    return load_restoration_dataset(name, data_dir, split=split, **given)


def _kinds_of(name: str) -> Sequence[str]:
    if name not in RECIPES:
        raise ValueError(f"`name` must be a recipe ({', '.join(RECIPES)}) with --severity, got {name!r}; name one")
    return RECIPES[name].kinds


def draw_pairs(pairs: Sequence[dict]) -> Figure:
    """Draw a row for each pair, degraded beside clean.

    Args:
        pairs: rows of a dataset with the columns `degraded`, `clean`, `task` and `file_name`.

    Raises:
        ValueError: there is no pair, or one has no degraded picture.
    """
    if not pairs or any(pair["degraded"] is None for pair in pairs):
        raise ValueError("`pairs` must have degraded pictures, got none; give a recipe for clean photographs")
    figure = _new_figure(len(pairs), 2)
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    for axes, pair in zip(grid, pairs, strict=True):
        strength = "" if pair["severity"] is None else f", severity {pair['severity']:.2f}"
        _show(axes[0], np.asarray(pair["degraded"]), f"{pair['task']}{strength}")
        _show(axes[1], np.asarray(pair["clean"]), pair["file_name"])
    return figure


def draw_kinds(dataset: datasets.Dataset, kinds: Sequence[str], severities: Sequence[float], seed: int) -> Figure:
    """Draw a row for each kind: a clean photograph, then the same photograph at each severity.

    Args:
        dataset: has the column `clean`; the rows take its first photographs in turn.
        kinds: some of `KINDS`.
        severities: one column each, 0 to 1.
        seed: of the degradations.
    """
    columns = len(severities) + 1
    figure = _new_figure(len(kinds), columns)
    grid = figure.subplots(len(kinds), columns, squeeze=False)
    for axes, kind in zip(grid, kinds, strict=True):
        index = KINDS.index(kind) % len(dataset)
        clean = to_float(np.asarray(dataset[index]["clean"]))
        _show(axes[0], clean, "clean")
        for column, severity in enumerate(severities, start=1):
            drawn = sample_degradation(kind, severity, np.random.default_rng((seed, index)))
            _show(axes[column], apply_degradations(clean, [drawn]), f"{kind}, severity {severity:g}")
    return figure


def _new_figure(rows: int, columns: int) -> Figure:
    height, width = (pixels / DOTS_PER_INCH for pixels in PANEL)
    return Figure((columns * width, rows * (height + 0.3)), dpi=DOTS_PER_INCH, layout="constrained")


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
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
