"""Miniatures of the corpora in their true layouts, listed in miniatures.txt, for the tests to build."""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (8, 6)


def save(path: Path, size: tuple[int, int] = SIZE, mode: str = "RGB") -> Path:
    """Save a picture whose pixels depend on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
    pixels = rng.integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def build(root: Path, files: dict[str, str], others: Iterable[str] = ()) -> None:
    """Save the pictures of a miniature, and others that belong to no pair."""
    for name in {*files, *files.values(), *others} - {""}:
        save(root / name)


def parse(block: str) -> tuple[str, dict[str, str], list[str]]:
    """Return a miniature's title, its pairs (the clean picture is "" where there are only clean ones) and the rest."""
    title, *lines = (line for line in block.splitlines() if line[0] != "#")
    files = dict(line.partition(" -> ")[::2] for line in lines if line[0] != "+")
    return title, files, [line[2:] for line in lines if line[0] == "+"]


LISTING = Path(__file__).with_name("miniatures.txt").read_text(encoding="utf-8")
MINIATURES = {title: (files, others) for title, files, others in map(parse, LISTING.strip().split("\n\n")[1:])}


def build_five_tasks(root: Path, split: str) -> None:
    """Save the corpora of the protocol `five_tasks`, each in a folder of its name."""
    titles = {
        "reside_ots": "reside_ots train",
        "reside_sots_outdoor": "reside_sots_outdoor test",
        "rain100l": "rain100l train (authors')" if split == "train" else "rain100l test (repackaged)",
        "bsd400": "bsd400 test",
        "waterlooed": "waterlooed train",
        "cbsd68": "cbsd68 test",
        "gopro": "gopro train" if split == "train" else "gopro test (repackaged)",
        "lol": f"lol {split}",
    }
    for corpus, title in titles.items():
        build(root / corpus, *MINIATURES[title])
