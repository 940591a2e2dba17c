"""Pictures that show restorations: degraded and restored side by side, and an overview of many."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dpmambair.console import printable

# The grid holds thumbnails, and not of endlessly many pictures: neither memory nor the file may grow without bound.
GRID_LIMIT, THUMBNAIL = 48, (348, 232)
COLUMNS, GAP = 4, 8  # GAP in pixels


def draw_comparison(degraded: Image.Image, restored: Image.Image) -> Image.Image:
    """Return the degraded picture with the restored one, of the same size and mode, to its right."""
    both = Image.new(restored.mode, (2 * restored.width, restored.height))
    both.paste(degraded, (0, 0))
    both.paste(restored, (restored.width, 0))
    both.info = restored.info
    return both


def draw_pair(caption: str, degraded: Image.Image, restored: Image.Image) -> Image.Image:
    """Return one cell of the grid: the caption, the degraded picture and under it the restored one, as thumbnails."""
    width, height = THUMBNAIL
    cell = Image.new("RGB", (width, 2 * height + 36), "white")
    pen = ImageDraw.Draw(cell)
    pen.text((width // 2, 17), _shorten(printable(caption), width), "black", _font(17), anchor="mm")
    for top, word, picture in ((32, "degraded", degraded), (36 + height, "restored", restored)):
        cell.paste(ImageOps.pad(picture.convert("RGB"), THUMBNAIL, Image.Resampling.LANCZOS, color="white"), (0, top))
        pen.text((8, top + height - 8), word, "white", _font(14), anchor="ls", stroke_width=2, stroke_fill="black")
    return cell


# Drawing would load it anew for every text, and for every length that is tried.
@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _shorten(caption: str, width: int) -> str:
    """Return the most of a caption that is at most `width` pixels wide, with an ellipsis where some is left out."""

    def cut(left_out: int) -> str:
        return f"{caption[: len(caption) - left_out].rstrip('…')}…" if left_out else caption

    return cut(bisect_left(range(len(caption)), True, key=lambda count: _font(17).getlength(cut(count)) <= width))


def draw_grid(cells: Sequence[Image.Image]) -> Image.Image:
    """Return all cells, which share one size, on one white RGB canvas."""
    width, height = cells[0].width + GAP, cells[0].height + GAP
    columns = min(COLUMNS, len(cells))
    canvas = Image.new("RGB", (columns * width + GAP, -(-len(cells) // columns) * height + GAP), "white")
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        canvas.paste(cell, (GAP + column * width, GAP + row * height))
    return canvas
