"""Pictures on which the tests of the data run."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from dataset_scripts import Degradation, load_clean_photographs, sample_degradation


def draw_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Return a smooth random picture, RGB, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(256, size=(6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(picture: np.ndarray, form: str, **options) -> bytes:
    """Return a picture, (H, W, 3) uint8, as the bytes of a file."""
    file = BytesIO()
    Image.fromarray(picture).save(file, form, **options)
    return file.getvalue()


def draw(kind: str, severity: float, seed: int = 0, *, is_varied: bool = False) -> Degradation:
    """Draw a degradation by a seed."""
    return sample_degradation(kind, severity, np.random.default_rng(seed), is_varied=is_varied)


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """A flag and a face, with flat, textured, dark and bright parts, (192, 256, 3) float32."""
    return data.astronaut()[:192, :256].astype(np.float32) / 255


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Folder with a picture of every format, of different sizes, in two levels."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "more").mkdir()
    names = ("a.png", "b.jpg", "c.webp", "d.bmp", "e.tif", "f.TIFF", "g.JPEG", "more/a.png", "more/tiny.png")
    for seed, name in enumerate(names):
        height, width = (20, 30) if "tiny" in name else (90 + 7 * seed, 150 - 5 * seed)
        Image.fromarray(draw_picture(height, width, seed)).save(root / name)
    return root


@pytest.fixture(scope="session")
def dataset(folder, tmp_path_factory):
    """The folder's pictures, loaded."""
    return load_clean_photographs(folder, cache_dir=tmp_path_factory.mktemp("cache"))
