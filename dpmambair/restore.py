"""Restore degraded photographs from the command line: files and folders in, PNG files out.

`dpmambair-restore INPUT... -o OUT`, or `python -m dpmambair.restore`, takes any mixture of files and folders. A folder
is searched in depth (hidden names are left out) and its structure is kept below `OUT`. Every picture is read by
`read_picture`, which says what happens to its pixels, and restored by a `Restorer`; depth, transparency and metadata
are kept.

Exit status: 0 when everything was restored, 1 when any input failed (one line each on stderr, the others are still
restored), 2 when work could not begin.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from dpmambair.files import replacing
from dpmambair.shipped import SHIPPED

if TYPE_CHECKING:
    from modeling_dpmambair import Restorer

# The grid holds thumbnails, and not of endlessly many pictures: neither memory nor the file may grow without bound.
GRID_LIMIT, THUMBNAIL = 48, (348, 232)
# GiB that restoring one picture may take.
MEMORY = 3.0
# Of PNG files: for photographs Pillow's own level, 6, takes much longer and saves little.
PNG_LEVEL = 4

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Picture:
    """One picture to restore.

    Attributes:
        source: the degraded file.
        target: the PNG file to write.
        caption: its name in the grid.
    """

    source: Path
    target: Path
    caption: str

    @property
    def comparison(self) -> Path:
        """The side-by-side file that `--compare` writes beside `target`."""
        return self.target.with_stem(f"{self.target.stem}_compare")


@dataclass
class Problems:
    """Says each failure in one line on stderr, around the progress bar, and counts them."""

    count: int = 0

    def add(self, path: str | Path, error: Exception) -> None:
        """Report that `path` failed because of `error`."""
        tqdm.write(f"{path}: {describe(error, path)}", file=sys.stderr)
        self.count += 1


def describe(error: Exception, path: str | Path) -> str:
    """Return the reason for a failure of `path` in one line."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        elsewhere = error.filename is not None and str(error.filename) != str(path)
        return f"{error.strerror}: {error.filename}" if elsewhere else error.strerror
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "not enough memory to restore this picture"
    return text.splitlines()[0]


def find_pictures(inputs: Sequence[Path], output: Path, problems: Problems) -> list[Picture]:
    """List what to restore: each file as given, and all pictures in each folder, sorted.

    A file that does not exist is listed too, so that it fails when its turn comes. Folders that cannot be read, and
    those without pictures, go to `problems`.

    Args:
        inputs: files and folders.
        output: folder below which results are written; never searched when it lies inside an input folder.
        problems: collects what cannot be used.
    """
    pictures = []
    for given in inputs:
        # Not Path.is_dir: it raises where a parent folder cannot be read.
        if not os.path.isdir(given):
            pictures.append(Picture(given, output / Path(given.name).with_suffix(".png"), given.stem))
            continue
        before = (len(pictures), problems.count)
        for source in walk(given, output, problems):
            name = source.relative_to(given)
            pictures.append(Picture(source, output / name.with_suffix(".png"), name.with_suffix("").as_posix()))
        if before == (len(pictures), problems.count):
            problems.add(given, ValueError("no pictures in this folder"))
    return pictures


def walk(folder: Path, output: Path, problems: Problems) -> Iterator[Path]:
    """Yield the pictures below `folder` by their file names, sorted, without hidden ones and without `output`."""
    from modeling_dpmambair.picture_files_dpmambair import FORMATS

    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    avoided = output.resolve()
    for parent, folders, names in os.walk(folder, onerror=lambda error: problems.add(error.filename, error)):
        here = Path(parent)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and (here / n).resolve() != avoided)
        yield from (here / n for n in sorted(names) if not n.startswith(".") and Path(n).suffix.lower() in suffixes)


def check_targets(pictures: Sequence[Picture], compare: bool, grid: Path | None) -> None:
    """Make sure that every file to be written has a name of its own and is no input.

    Raises:
        ValueError: two inputs would write one file, or an output would overwrite an input.
    """
    sources = {os.path.realpath(picture.source) for picture in pictures}
    planned = [(picture.target, str(picture.source)) for picture in pictures]
    planned += [(picture.comparison, str(picture.source)) for picture in pictures if compare]
    planned += [(grid, "--grid")] if grid else []
    owners: dict[str, str] = {}
    for target, owner in planned:
        place = os.path.realpath(target)
        if place in sources:
            raise ValueError(f"`--output` must not overwrite inputs, got {target}; choose another folder")
        if place in owners:
            raise ValueError(
                f"outputs must have distinct names, got {target} for both {owners[place]} and {owner}; "
                "restore them into different folders"
            )
        owners[place] = owner


@contextmanager
def show_tiles(name: str) -> Iterator[Callable[[int, int], None]]:
    """Give a progress callable that shows a bar below that of the pictures, if there is more than one step to show."""
    with ExitStack() as stack:
        bars: list[tqdm] = []

        def show(done: int, total: int) -> None:
            if total > 1 and not bars:
                bars.append(stack.enter_context(tqdm(total=total, desc=name, unit="tile", leave=False, disable=None)))
            for bar in bars:
                bar.update()

        yield show


def restore_picture(picture: Picture, restorer: Restorer, compare: bool) -> tuple[Image.Image, Image.Image]:
    """Restore one file into its target, with its comparison if wanted, and return (degraded, restored)."""
    from modeling_dpmambair import read_picture, write_picture

    with warnings.catch_warnings():
        # Pillow warns of large photographs, and of damage that it then either survives or raises.
        warnings.simplefilter("ignore")
        degraded = read_picture(picture.source)
    with show_tiles(picture.source.name) as progress:
        whole = restorer.restore_picture(degraded, progress=progress)
    with replacing(picture.target) as temporary:
        write_picture(whole, temporary)
    degraded, restored = degraded.image, whole.image
    if compare:
        both = Image.new(restored.mode, (2 * restored.width, restored.height))
        both.paste(degraded, (0, 0))
        both.paste(restored, (restored.width, 0))
        both.info = restored.info
        write_png(both, picture.comparison)
    return degraded, restored


def write_png(picture: Image.Image, path: Path) -> None:
    """Write a picture, with the colour profile in its `info`, whole or not at all."""
    with replacing(path) as temporary:
        picture.save(temporary, compress_level=PNG_LEVEL)


def draw_pair(caption: str, degraded: Image.Image, restored: Image.Image) -> Image.Image:
    """Return one cell of the grid: the caption, the degraded picture and under it the restored one, as thumbnails."""
    width, height = THUMBNAIL
    cell = Image.new("RGB", (width, 2 * height + 36), "white")
    pen = ImageDraw.Draw(cell)
    # Bytes that are not UTF-8 are legal in file names, not in fonts.
    caption = os.fsencode(caption).decode(errors="replace")
    while pen.textlength(caption, font_size=17) > width:
        caption = f"{caption.rstrip('…')[:-1]}…"
    pen.text((width // 2, 17), caption, "black", anchor="mm", font_size=17)
    for top, word, picture in ((32, "degraded", degraded), (36 + height, "restored", restored)):
        cell.paste(ImageOps.pad(picture.convert("RGB"), THUMBNAIL, Image.Resampling.LANCZOS, color="white"), (0, top))
        pen.text((8, top + height - 8), word, "white", anchor="ls", font_size=14, stroke_width=2, stroke_fill="black")
    return cell


def draw_grid(cells: Sequence[Image.Image], columns: int = 4, gap: int = 8) -> Image.Image:
    """Return all cells, which share one size, on one white RGB canvas."""
    width, height = cells[0].width + gap, cells[0].height + gap
    columns = min(columns, len(cells))
    canvas = Image.new("RGB", (columns * width + gap, -(-len(cells) // columns) * height + gap), "white")
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        canvas.paste(cell, (gap + column * width, gap + row * height))
    return canvas


def restore_all(
    pictures: Sequence[Picture], restorer: Restorer, problems: Problems, compare: bool, grid: Path | None
) -> int:
    """Restore every picture, draw the grid if wanted, and return how many were restored.

    One picture's failure, whatever it is, goes to `problems` and ends nothing else.
    """
    cells: list[Image.Image] = []
    restored_count = 0
    for picture in tqdm(pictures, unit="picture", disable=None):
        try:
            degraded, restored = restore_picture(picture, restorer, compare)
        except Exception as error:
            problems.add(picture.source, error)
            continue
        restored_count += 1
        if grid and len(cells) < GRID_LIMIT:
            cells.append(draw_pair(picture.caption, degraded, restored))
    if grid and cells:
        try:
            with replacing(grid) as temporary:
                draw_grid(cells).save(temporary)
        except Exception as error:
            problems.add(grid, error)
    return restored_count


@contextmanager
def without_collector() -> Iterator[None]:
    """Load what stays until the end without searching it for garbage, now or then, which takes long."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@main.command()
def restore(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Pictures and folders of pictures.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the restored pictures.")],
    model: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of a trained model.", show_default="the shipped one")
    ] = SHIPPED,
    compare: Annotated[bool, typer.Option("--compare", help="Also write degraded and restored side by side.")] = False,
    grid: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw one overview of all pictures.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 where the device is faster in it.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    memory: Annotated[
        float, typer.Option(metavar="GIB", help="Restore pictures in tiles that would take more memory than this.")
    ] = MEMORY,
) -> None:
    """Restore degraded photographs (haze, rain, snow, low light, blur, JPEG artefacts, noise) into PNG files.

    Exit status 0: all restored; 1: some inputs failed, each with a line on stderr; 2: work could not begin.
    """
    problems = Problems()
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not os.path.isfile(model / "config.json"):
            raise ValueError(f"`--model` must be a folder with a model's config.json, got {model}; give --model DIR")
        if not 0 <= memory < math.inf:
            raise ValueError(f"`--memory` must be a number of GiB from 0 up, got {memory}; {MEMORY} is the default")
        with without_collector():
            pictures = find_pictures(inputs, output, problems)
            check_targets(pictures, compare, grid)
            # Here, because torch comes with it, which help can do without.
            from transformers.utils import logging

            from dpmambair.memory import keep_freed_memory
            from modeling_dpmambair import Restorer

            keep_freed_memory()
            logging.disable_progress_bar()
            restorer = Restorer.from_pretrained(model, device, dtype, int(memory * 2**30))
    except (OSError, ValueError) as error:
        typer.echo(f"error: {describe(error, output)}", err=True)
        raise typer.Exit(2) from error
    restored_count = restore_all(pictures, restorer, problems, compare, grid)
    typer.echo(f"restored {restored_count} of {len(pictures)} pictures into {output}")
    if problems.count:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
