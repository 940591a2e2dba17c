"""Make the example pictures: photographs that scikit-image ships, spoiled by the project's own degradation model.

`python -m examples.make_examples` rewrites the eight PNG files beside it; README.md tells where the photographs come
from. Every draw has a fixed seed, so the same versions of the libraries give the same pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageOps
from skimage import data

from dataset_scripts.degradations import apply_degradations, sample_degradation

SIZE = (348, 232)


@dataclass(frozen=True)
class Example:
    """What one example is made of.

    Attributes:
        photograph: name of a function of `skimage.data` whose picture lies inside the wheel.
        box: part to keep (left, top, right, bottom) in pixels, scaled to `SIZE`.
        degradations: severity in [0, 1] of each kind.
        seed: of the draws.
    """

    photograph: str
    box: tuple[int, int, int, int]
    degradations: dict[str, float]
    seed: int


EXAMPLES = {
    "haze": Example("coffee", (0, 0, 600, 400), {"haze": 0.5}, 1),
    "rain": Example("rocket", (0, 0, 640, 427), {"rain": 0.5}, 2),
    "snow": Example("astronaut", (0, 0, 512, 341), {"snow": 0.5}, 3),
    "low_light": Example("chelsea", (0, 0, 450, 300), {"low_light": 0.5}, 4),
    "blur": Example("coffee", (150, 20, 570, 300), {"blur": 0.5}, 5),
    "jpeg": Example("astronaut", (60, 0, 408, 232), {"jpeg": 0.5}, 6),
    "noise": Example("chelsea", (60, 0, 420, 240), {"noise": 0.5}, 7),
    "mixed": Example("rocket", (130, 107, 610, 427), {"haze": 0.25, "rain": 0.4, "noise": 0.15}, 8),
}


def make_example(example: Example) -> Image.Image:
    """Return the degraded picture, 8-bit RGB of `SIZE`."""
    photograph = Image.fromarray(getattr(data, example.photograph)()).crop(example.box)
    clean = np.asarray(ImageOps.fit(photograph, SIZE, Image.Resampling.LANCZOS), np.float32) / 255
    rng = np.random.default_rng(example.seed)
    record = [sample_degradation(kind, severity, rng) for kind, severity in example.degradations.items()]
    degraded = apply_degradations(clean, record)
    return Image.fromarray(np.rint(degraded * 255).astype(np.uint8))


def make_examples(
    folder: Annotated[Path, typer.Argument(help="Where to write.", show_default=False)] = Path(__file__).parent,
) -> None:
    """Write the eight example pictures."""
    for name, example in EXAMPLES.items():
        make_example(example).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    typer.run(make_examples)
