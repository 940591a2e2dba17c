"""What a visit does: a picture and a strength in, what the page shows out."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import NamedTuple, TypeAlias

import gradio as gr
from PIL import Image

from .pictures import Picture, UnusablePictureError
from .report import draw_report
from .restorer import DEFAULT, Control, Degradations, Restorer

# The slider shows a reduced copy of large pictures: a phone need not load and hold all their pixels.
PREVIEW_SIDE = 1600
MAX_STRENGTH = 1.5

# Before and after.
Pair: TypeAlias = tuple[Image.Image, Image.Image]


class Wish(NamedTuple):
    """What a visitor wants to see restored.

    Attributes:
        picture: path of the file.
        control: what is repaired in it, and how.
    """

    picture: str
    control: Control = DEFAULT


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

    def control(self, repair: Sequence[str] | None, self_ensemble: bool) -> Control:
        """Return what is to be done where some kinds are ticked; all of them if the model cannot be steered."""
        keep = () if repair is None else tuple(kind for kind in self.restorer.steers if kind not in repair)
        return Control(keep, bool(self_ensemble))

    def begin_example(self, repair: list[str], self_ensemble: bool, choice: gr.SelectData) -> tuple:
        """Begin with the example that was touched."""
        return self.begin(str(self.examples[choice.index]), repair, self_ensemble)

    def begin_again(self, wanted: Wish, repair: list[str], self_ensemble: bool) -> tuple:
        """Begin anew with the same picture, of which something else is wanted."""
        return self.begin(wanted.picture, repair, self_ensemble)

    def begin(self, picture: str, repair: list[str], self_ensemble: bool) -> tuple[Wish, str, str, dict]:
        """Take back what is said and offered of the former picture, as it would be taken for the new one's.

        Returns:
            What is now wanted; caption, report and download until it is restored.
        """
        waiting = f"<p><b>{escape(Path(picture).name)}</b> is being restored</p>"
        return Wish(picture, self.control(repair, self_ensemble)), waiting, "", gr.update(interactive=False)

    def restore(self, wanted: Wish, progress: gr.Progress = gr.Progress()) -> Wish:
        """Restore a picture, and return it as the one that can be shown."""
        with friendly():
            self.restorer.restore(*wanted, partial(_say, progress))
        return wanted

    def show(self, shown: Wish, wanted: Wish, strength: float) -> tuple:
        """Show and describe a restored picture, all at once; but nothing if the visitor wants another by now.

        Returns:
            Before and after, the download, the caption and the report.
        """
        if shown != wanted:
            return gr.skip()
        pair, download = self.view(shown, strength)
        return pair, gr.update(value=download, interactive=True), *self.tell(shown)

    def go_back(self, shown: Wish, strength: float) -> tuple:
        """Show the former picture again, as the one that was wanted cannot be restored; that is wanted now."""
        return shown, *self.show(shown, shown, strength)

    def turn(self, shown: Wish, wanted: Wish, strength: float) -> View:
        """Show a picture at another strength, unless the visitor waits for the next one."""
        return self.view(shown, strength) if shown == wanted else gr.skip()

    def view(self, shown: Wish, strength: float) -> View:
        """Return what shows a restored picture at some strength; the network does not run again."""
        with friendly():
            restoration = self.restorer.restore(*shown)
        restored = self.restorer.at_strength(restoration, strength)
        return View((_preview(restoration.degraded), _preview(restored.image)), self._write(restored, shown.picture))

    def tell(self, shown: Wish) -> Findings:
        """Return what is said of a restored picture."""
        with friendly():
            restoration = self.restorer.restore(*shown)
        return Findings(_describe(shown.picture, restoration.picture), draw_report(restoration.degradations))

    def serve(
        self,
        picture: str,
        strength: float = 1.0,
        repair: list[str] | None = None,
        self_ensemble: bool = False,
        progress: gr.Progress = gr.Progress(),
    ) -> tuple[str, Degradations | None]:
        """Restore a picture; for programs.

        Args:
            picture: a picture file.
            strength: 0 leaves it as it was, 1 restores it, more (up to 1.5) exaggerates.
            repair: kinds of degradation that are repaired; all of them unless some are left out.
            self_ensemble: whether to average over all eight flips and turns, which takes eight times as long.
            progress: tells how far it is.

        Returns:
            The restored picture, a PNG file of the same size and depth, and what had spoiled it: `presence` and
            `severity` in [0, 1] for each kind; null from a model that does not describe.
        """
        with friendly():
            restoration = self.restorer.restore(picture, self.control(repair, self_ensemble), partial(_say, progress))
        restored = self.restorer.at_strength(restoration, strength)
        return self._write(restored, picture), restoration.degradations

    def _write(self, restored: Picture, picture: str) -> str:
        # A folder for each file: its name, which the visitor sees, may repeat.
        target = Path(tempfile.mkdtemp(dir=self.folder)) / f"{Path(picture).stem}-restored.png"
        self.restorer.write(restored, target)
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
    copy = picture.convert("RGB")
    copy.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return copy


def _describe(path: str, picture: Picture) -> str:
    width, height = picture.size
    reduced = " (shown smaller, downloaded in full)" if max(picture.size) > PREVIEW_SIDE else ""
    depth = f", {picture.bit_depth} bits" if picture.bit_depth > 8 else ""
    return f"<p><b>{escape(Path(path).name)}</b> {width} &times; {height} pixels{depth}{reduced}</p>"
