"""What a visit does: a picture and a strength in, what the page shows out."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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


class Findings(NamedTuple):
    """What the page says of a restored picture.

    Attributes:
        picture: path of the degraded picture.
        caption: one line on it, HTML.
        report: what had spoiled it, HTML.
    """

    picture: str
    caption: str
    report: str


class View(NamedTuple):
    """What the page shows of a restoration at one strength.

    Attributes:
        pair: before and after, reduced to `PREVIEW_SIDE`.
        download: path of the restored picture in full.
    """

    pair: Pair
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

    def restore_example(self, choice: gr.SelectData, progress: gr.Progress = gr.Progress()) -> Findings:
        """Restore the example that was touched."""
        return self.restore(str(self.examples[choice.index]), progress)

    def restore(self, picture: str, progress: gr.Progress = gr.Progress()) -> Findings:
        """Restore a picture and tell what was found."""
        with friendly():
            restoration = self.restorer.restore(picture, partial(_say, progress))
        return Findings(picture, _describe(picture, restoration.degraded), draw_report(restoration.degradations))

    def view(self, picture: str, strength: float) -> View:
        """Show a restored picture at some strength; the network does not run again."""
        with friendly():
            restoration = self.restorer.restore(picture)
        restored = self.restorer.at_strength(restoration, strength)
        return View((_preview(restoration.degraded), _preview(restored)), self._write(restored, picture))

    def serve(
        self, picture: str, strength: float = 1.0, progress: gr.Progress = gr.Progress()
    ) -> tuple[str, Degradations | None]:
        """Restore a picture; for programs.

        Args:
            picture: a picture file.
            strength: 0 leaves it as it was, 1 restores it, more (up to 1.5) exaggerates.
            progress: tells how far it is.

        Returns:
            The restored picture, a PNG file of the same size, and what had spoiled it: `presence` and `severity` in
            [0, 1] for each kind; null from a model that does not describe.
        """
        with friendly():
            restoration = self.restorer.restore(picture, partial(_say, progress))
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
        raise gr.Error(str(error), duration=None, print_exception=False) from error


def _say(progress: gr.Progress, done: int, count: int) -> None:
    progress((done, count), desc="Restoring", unit="tiles")


def _preview(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    copy.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return copy


def _describe(path: str, picture: Image.Image) -> str:
    width, height = picture.size
    reduced = " (shown smaller, downloaded in full)" if max(picture.size) > PREVIEW_SIDE else ""
    return f"<p><b>{escape(Path(path).name)}</b> {width} &times; {height} pixels{reduced}</p>"
