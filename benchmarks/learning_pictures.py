"""Patches and held-out pictures that all candidates of `benchmarks.learning` see, drawn once and kept on disk."""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset_scripts import RestorationSet, sample_degradation
from dataset_scripts.decoding import Memory, Pictures
from dataset_scripts.degraded_patches import degrade_window
from dataset_scripts.transforms import Orientation, OrientedPicture, center_window
from dpmambair.files import replacing
from training.pictures import SYNTHETIC, ReadablePatches, load_sets
from training.recipe import Recipe

# Patches of a file, and how many of the first ones tell whether the files on disk are those that would be drawn now.
CHUNK, PROBED = 2048, 32
VALIDATION_SEED, SEVERITY = 2504, 0.5


class Validation(NamedTuple):
    """Held-out pictures.

    Attributes:
        degraded: for each kind all pictures under it, (B, 3, H, W), RGB in [0, 1].
        clean: what they show, (B, 3, H, W), RGB in [0, 1].
    """

    degraded: dict[str, Tensor]
    clean: Tensor


class Drawn(NamedTuple):
    """Patches as they are kept on disk.

    Attributes:
        pairs: degraded and clean ones, (N, 2, 3, p, p) uint8, RGB.
        classes: of each the kind that is severest, by its place in `KINDS`, (N,) int64.
    """

    pairs: np.ndarray
    classes: np.ndarray


class Drawer:
    """Draws the patches of a recipe one after another, over all epochs.

    Args:
        recipe: its seed and the first side of its `patch_schedule` count.
    """

    def __init__(self, recipe: Recipe) -> None:
        cv2.setNumThreads(0)  # no more than the one core that the process is given
        self.patches = ReadablePatches(load_sets(recipe.data).kept, recipe)

    def draw(self, places: range) -> Drawn:
        """Draw some patches.

        Args:
            places: their numbers, from 0 over all epochs.
        """
        rows = [self._draw_one(place) for place in tqdm(places, desc="draw", leave=False, disable=None)]
        return Drawn(*(np.stack(column) for column in zip(*rows, strict=True)))

    def _draw_one(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, index = divmod(place, len(self.patches))
        self.patches.set_epoch(epoch)
        patch = self.patches[index]
        return to_bytes(torch.stack([patch["pixel_values"], patch["labels"]])), patch["severity"].argmax().numpy()


def to_bytes(pictures: Tensor) -> np.ndarray:
    """Round pictures as an 8-bit file holds them.

    Args:
        pictures: in [0, 1], of any shape.
    """
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def to_floats(pictures: np.ndarray) -> Tensor:
    """Turn 8-bit pictures of any shape into float32 ones in [0, 1].

    Args:
        pictures: uint8.
    """
    return torch.from_numpy(np.array(pictures)).float() / 255


def find_patches(recipe: Recipe, side: int, seed: int, work: Path) -> Path:
    """Name the folder of a recipe's patches, after the data settings and the first patches that they give now.

    A folder that holds them already is found again; other photographs, or another way to degrade them, make a new one.

    Args:
        recipe: whose section `data` counts.
        side: of the patches, pixels.
        seed: of all draws.
        work: folder in which everything drawn lies.
    """
    own = with_patches(recipe, side, seed)
    return work / f"patches-{side}-{seed}-{_name(Drawer(own).draw(range(PROBED)).pairs, own)}"


def with_patches(recipe: Recipe, side: int, seed: int) -> Recipe:
    """Copy a recipe with another patch side and seed.

    Args:
        recipe: what to copy.
        side: pixels.
        seed: non-negative.
    """
    return replace(recipe, training=replace(recipe.training, patch_schedule=((0, side),), seed=seed))


def _name(probed: np.ndarray, recipe: Recipe) -> str:
    settings = json.dumps(recipe.to_dict(portable=True)["data"], sort_keys=True)
    return hashlib.sha256(settings.encode() + probed.tobytes()).hexdigest()[:10]


class Batch(NamedTuple):
    """The patches of a step.

    Attributes:
        degraded: (B, 3, p, p) float32, RGB in [0, 1].
        clean: of the same shape.
        classes: of each the kind that is severest, by its place in `KINDS`, (B,) int64.
    """

    degraded: Tensor
    clean: Tensor
    classes: Tensor


class Patches:
    """Patches on disk, in an order that depends on nothing but their seed; more are drawn when they are asked for.

    Args:
        folder: from `find_patches`.
        recipe: from `with_patches`.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        self._drawer: Drawer | None = None
        self._chunk = lru_cache(maxsize=2)(self._open)

    def batch(self, step: int, size: int) -> Batch:
        """Give the patches of a step.

        Args:
            step: from 0.
            size: patches of each step.
        """
        places = range(step * size, (step + 1) * size)
        chunks = [self._chunk(place // CHUNK) for place in places]
        pairs = to_floats(np.stack([one.pairs[place % CHUNK] for one, place in zip(chunks, places, strict=True)]))
        classes = [int(one.classes[place % CHUNK]) for one, place in zip(chunks, places, strict=True)]
        return Batch(pairs[:, 0].contiguous(), pairs[:, 1].contiguous(), torch.tensor(classes))

    def _open(self, number: int) -> Drawn:
        paths = [self.folder / f"{number:04d}{part}.npy" for part in ("", "-classes")]
        with locked(self.folder):
            if not all(path.exists() for path in paths):
                self._drawer = self._drawer or Drawer(self.recipe)
                drawn = self._drawer.draw(range(number * CHUNK, (number + 1) * CHUNK))
                for path, part in zip(paths, drawn, strict=True):
                    with replacing(path) as unfinished:
                        np.save(unfinished, part)
        return Drawn(*(np.load(path, mmap_mode="r") for path in paths))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder, which is made.

    Args:
        folder: the others wait until the block ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def draw_validation(recipe: Recipe, pictures: int, side: int, work: Path) -> Path:
    """Draw the middles of held-out photographs, each under each kind at middle severity, or find them drawn.

    Args:
        recipe: whose section `data` tells photographs and kinds.
        pictures: how many, evenly chosen; all where there are fewer.
        side: pixels; smaller photographs are reflected.
        work: folder in which everything drawn lies.

    Returns:
        A file, for `load_validation`.

    Raises:
        ValueError: the recipe has no clean photographs.
    """
    held_out = load_sets(recipe.data).held_out
    if SYNTHETIC not in held_out:
        raise ValueError("`data.clean_dirs` must name clean photographs to validate on, got none; give --clean DIR")
    drawn = _draw_validation(held_out[SYNTHETIC], recipe.data.kinds, pictures, side)
    path = work / f"validation-{len(drawn['clean'])}-{side}-{_name(np.stack(list(drawn.values())), recipe)}.npz"
    if not path.exists():
        with replacing(path) as unfinished:
            np.savez(unfinished, **drawn)
    return path


def _draw_validation(members: RestorationSet, kinds: tuple[str, ...], count: int, side: int) -> dict[str, np.ndarray]:
    photographs, count = Pictures(members.dataset, "clean", Memory(0)), min(count, len(members))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in ("clean", *kinds)}
    for place in tqdm(range(count), desc="held-out pictures", leave=False, disable=None):
        picture = OrientedPicture(photographs[place * len(members) // count], Orientation(False, 0), side)
        window = center_window(picture.height, picture.width, side, side)
        for number, kind in enumerate(kinds):
            rng = np.random.default_rng((VALIDATION_SEED, number, place))
            degraded, clean = degrade_window(picture, window, (sample_degradation(kind, SEVERITY, rng),), {})
            drawn[kind].append(_to_channels_first(degraded))
        drawn["clean"].append(_to_channels_first(clean))
    return {name: np.stack(rows) for name, rows in drawn.items()}


def _to_channels_first(picture: np.ndarray) -> np.ndarray:
    return to_bytes(torch.from_numpy(picture.transpose(2, 0, 1).copy()))


def load_validation(path: Path) -> Validation:
    """Load what `draw_validation` has drawn.

    Args:
        path: its file.
    """
    with np.load(path) as stored:
        pictures = {name: to_floats(stored[name]) for name in stored.files}
    clean = pictures.pop("clean")
    return Validation(pictures, clean)
