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


class View(NamedTuple):
    """What the page shows of a restoration at one strength.

    Attributes:
        pair: before and after, reduced to `PREVIEW_SIDE`.
        download: path of the restored picture in full.
    """

    pair: Pair
    download: str


class Findings(NamedTuple):
    """What the page says of a restored picture.

    Attributes:
        caption: one line on it, HTML.
        report: what had spoiled it, HTML.
    """

    caption: str
    report: str


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

    def begin_example(self, choice: gr.SelectData) -> tuple[str, str, str, dict]:
        """Begin with the example that was touched."""
        return self.begin(str(self.examples[choice.index]))

    def begin(self, picture: str) -> tuple[str, str, str, dict]:
        """Take back what is said and offered of the former picture, as it would be taken for the new one's.

        Returns:
            The picture that is now wanted; caption, report and download until it is restored.
        """
        waiting = f"<p><b>{escape(Path(picture).name)}</b> is being restored</p>"
        return picture, waiting, "", gr.update(interactive=False)

    def restore(self, picture: str, progress: gr.Progress = gr.Progress()) -> str:
        """Restore a picture, and return it as the one that can be shown."""
        with friendly():
            self.restorer.restore(picture, partial(_say, progress))
        return picture

    def show(self, picture: str, wanted: str, strength: float) -> tuple:
        """Show and describe a restored picture, all at once; but nothing if the visitor wants another by now.

        Returns:
            Before and after, the download, the caption and the report.
        """
        if picture != wanted:
            return gr.skip()
        pair, download = self.view(picture, strength)
        return pair, gr.update(value=download, interactive=True), *self.tell(picture)

    def go_back(self, picture: str, strength: float) -> tuple:
        """Show the former picture again, as the one that was wanted cannot be restored; that is wanted now."""
        return picture, *self.show(picture, picture, strength)

    def turn(self, picture: str, wanted: str, strength: float) -> View:
        """Show a picture at another strength, unless the visitor waits for the next one."""
        return self.view(picture, strength) if picture == wanted else gr.skip()

    def view(self, picture: str, strength: float) -> View:
        """Return what shows a restored picture at some strength; the network does not run again."""
        with friendly():
            restoration = self.restorer.restore(picture)
        restored = self.restorer.at_strength(restoration, strength)
        return View((_preview(restoration.degraded), _preview(restored)), self._write(restored, picture))

    def tell(self, picture: str) -> Findings:
        """Return what is said of a restored picture."""
        with friendly():
            restoration = self.restorer.restore(picture)
        return Findings(_describe(picture, restoration.degraded), draw_report(restoration.degradations))

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
