"""What a visit does: a picture and a strength in, what the page shows out."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple, TypeAlias

import gradio as gr
from PIL import Image

from .pictures import UnusablePictureError
from .report import draw_report
from .restorer import Degradations, Restorer

# The slider shows a reduced copy of large pictures: a phone need not load and hold all their pixels.
PREVIEW_SIDE = 1600
MAX_STRENGTH = 1.5

# Before and after.
Pair: TypeAlias = tuple[Image.Image, Image.Image]


class Shown(NamedTuple):
    """What the page is to show.

    Attributes:
        picture: path of the degraded picture.
        pair: before and after, reduced to `PREVIEW_SIDE`.
        caption: one line on the picture, HTML.
        report: what had spoiled it, HTML.
        download: path of the restored picture in full.
    """

    picture: str
    pair: Pair
    caption: str
    report: str
    download: str


@dataclass(frozen=True)
class Visits:
    """Answers to what visitors do.

    Attributes:
        restorer: the model.
        examples: pictures to try, the opening one first.
        folder: where results are written; the server may serve it and cleans it up.
    """

    restorer: Restorer
    examples: list[Path]
    folder: Path

    def open_example(self) -> Shown:
        """Show the first example, so that the page opens with a result; the kernels are compiled on the way."""
        return self.show(str(self.examples[0]))

    def choose_example(self, strength: float, choice: gr.SelectData) -> Shown:
        """Show the example that was touched."""
        return self.show(str(self.examples[choice.index]), strength)

    def show(self, picture: str, strength: float = 1.0) -> Shown:
        """Restore a picture and show all about it."""
        with friendly():
            pair, download = self.change_strength(picture, strength)
            restoration = self.restorer.restore(picture)
        caption = _describe(Path(picture).name, restoration.degraded)
        return Shown(picture, pair, caption, draw_report(restoration.degradations), download)

    def change_strength(self, picture: str, strength: float) -> tuple[Pair, str]:
        """Return before and after at another strength, and the file to download; the network does not run again."""
        with friendly():
            restoration = self.restorer.restore(picture)
        restored = self.restorer.at_strength(restoration, strength)
        return (_preview(restoration.degraded), _preview(restored)), self._write(restored, picture)

    def restore(self, picture: str, strength: float = 1.0) -> tuple[str, Degradations | None]:
        """Restore a picture; for programs.

        Args:
            picture: a picture file.
            strength: 0 leaves it as it was, 1 restores it, more (up to 1.5) exaggerates.

        Returns:
            The restored picture, a PNG file of the same size, and what had spoiled it: `presence` and `severity` in
            [0, 1] for each kind; null from a model that does not describe.
        """
        with friendly():
            restoration = self.restorer.restore(picture)
        restored = self.restorer.at_strength(restoration, strength)
        return self._write(restored, picture), restoration.degradations

    def _write(self, restored: Image.Image, picture: str) -> str:
        # A folder for each file: its name, which the visitor sees, may repeat.
        target = Path(tempfile.mkdtemp(dir=self.folder)) / f"{Path(picture).stem}-restored.png"
        restored.save(target, compress_level=1)
        return str(target)


@contextmanager
def friendly() -> Iterator[None]:
    """Show the visitor why a picture cannot be restored."""
    try:
        yield
    except UnusablePictureError as error:
        raise gr.Error(str(error), title="Not this picture", duration=None, print_exception=False) from error


def _preview(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    copy.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return copy


def _describe(name: str, picture: Image.Image) -> str:
    width, height = picture.size
    reduced = " (shown smaller, downloaded in full)" if max(picture.size) > PREVIEW_SIDE else ""
    return f"<p><b>{escape(name)}</b> {width} &times; {height} pixels{reduced}</p>"
