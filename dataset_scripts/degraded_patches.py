"""Patches of degraded and clean pictures, drawn on the fly (Eq. 6, arXiv:2504.17732).

All that is drawn depends on (seed, epoch, index) and on nothing else: not on the number of workers, nor on what was
drawn before. Only the part of a picture that the patch needs is decoded, where the file allows it, and degraded.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import datasets
import numpy as np
import torch
from torch.utils.data import get_worker_info

from .decoding import Memory, Picture, Pictures
from .degradation_recipes import TRAINING_SEVERITY, DegradationRecipe, RealFields, name_task
from .degradations import KINDS, Degradation, apply_degradations, from_record, to_grey, to_record
from .transforms import (
    Orientation,
    Window,
    crop,
    grow_window,
    orient,
    pad_to_patch,
    sample_orientation,
    sample_window,
    to_float,
    to_tensor,
    unorient_window,
)

# Side of the squares that JPEG codes together at 4:2:0, and how far beyond a patch its colours come from, pixels.
JPEG_BLOCK, JPEG_REACH = 16, 2
# Half the side of the largest kernel of motion blur, pixels.
BLUR_REACH = 11


@dataclass(frozen=True)
class RestorationSet:
    """Pictures from which patches are drawn: real pairs, or clean photographs and how to degrade them.

    Attributes:
        dataset: has the column `clean`; real pairs also `degraded`, `task` and `record`, depth maps `file_name`.
        recipe: how clean photographs are degraded; None for real pairs.
        fields: real snow masks and depth maps, for a recipe.
        scales: range, within (0, 1], of the factor by which a clean photograph is shrunk before it is degraded, drawn
            evenly over its logarithm, so that patches show more of a scene; never so far that it is smaller than the
            patch.

    Raises:
        ValueError: `dataset` lacks a column, `scales` leave their range, or pairs are to be shrunk.
    """

    dataset: datasets.Dataset
    recipe: DegradationRecipe | None = None
    fields: RealFields | None = None
    scales: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.scales[0] <= self.scales[1] <= 1:
            raise ValueError(f"`scales` must be ascending and within (0, 1], got {self.scales}; correct them")
        if self.scales[0] < 1 and self.recipe is None:
            raise ValueError(f"`scales` must be (1, 1) for pairs, got {self.scales}; shrinking undoes degradation")
        needed = {"clean", "file_name"} if self.fields else {"clean"}
        if self.recipe is None:
            needed = {"clean", "degraded", "task", "record"}
        if missing := needed - set(self.dataset.column_names):
            raise ValueError(
                f"`dataset` must have the columns {sorted(needed)}, got none named {sorted(missing)}; "
                "load it with `load_restoration_dataset`, or give clean photographs a recipe"
            )

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.dataset)


class ShrunkPicture:
    """A picture made smaller, of which parts are read.

    Args:
        picture: as stored.
        height: rows of the smaller one.
        width: columns of the smaller one.
    """

    def __init__(self, picture: Picture, height: int, width: int) -> None:
        whole = picture.read(Window(0, 0, picture.height, picture.width))
        self._pixels = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        self.height, self.width = height, width

    def read(self, window: Window) -> np.ndarray:
        """Cut a rectangle out, (window.height, window.width, 3) uint8, RGB."""
        return crop(self._pixels, window)


def shrink(
    picture: Picture, scales: tuple[float, float], patch_size: int, rng: np.random.Generator
) -> Picture | ShrunkPicture:
    """Make a picture smaller by a random factor, but not smaller than a patch.

    Args:
        picture: as stored.
        scales: range of the factor.
        patch_size: side of the patch, pixels.
        rng: source of randomness; one number is drawn, none if the range is one number.
    """
    scale = scales[0]
    if scale < scales[1]:
        scale = float(np.exp(rng.uniform(*np.log(scales))))
    scale = max(scale, patch_size / min(picture.height, picture.width))
    if scale >= 1:
        return picture
    return ShrunkPicture(picture, round(scale * picture.height), round(scale * picture.width))


class OrientedPicture:
    """A picture as it is after flips, turns and padding, of which only parts are read.

    Args:
        picture: as stored.
        orientation: flip and turns.
        patch_size: side that it is padded to by reflection if it is smaller, pixels.
    """

    def __init__(self, picture: Picture | ShrunkPicture, orientation: Orientation, patch_size: int) -> None:
        self._picture, self._orientation, self._patch_size = picture, orientation, patch_size
        height, width = picture.height, picture.width
        self._inner = (width, height) if orientation.quarter_turns % 2 else (height, width)
        self.height, self.width = (max(side, patch_size) for side in self._inner)

    def read(self, window: Window) -> np.ndarray:
        """Read a rectangle, (window.height, window.width, 3) uint8, RGB."""
        if min(self._inner) < self._patch_size:
            whole = self._picture.read(Window(0, 0, self._picture.height, self._picture.width))
            return crop(self.prepare(whole), window)
        stored = unorient_window(window, self._orientation, self.height, self.width)
        return orient(self._picture.read(stored), self._orientation)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Flip, turn and pad an image of the stored picture's size, (H, W, C)."""
        return pad_to_patch(orient(image, self._orientation), self._patch_size)


def degrade_window(
    picture: OrientedPicture,
    window: Window,
    record: Sequence[Degradation],
    fields: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Degrade a patch as it would be inside the whole picture.

    Args:
        picture: the whole picture.
        window: where the patch lies.
        record: what happens to the picture.
        fields: real fields that the record names, of the whole picture.

    Returns:
        The degraded patch and the clean one, (window.height, window.width, 3) float32 in [0, 1].
    """
    height, width = picture.height, picture.width
    kinds = {degradation.kind for degradation in record}
    context = window
    for _ in kinds & {"jpeg", "file_jpeg"}:
        context = grow_window(context, JPEG_REACH, height, width, step=JPEG_BLOCK)
    if "blur" in kinds:
        context = grow_window(context, BLUR_REACH, height, width)
    clean = to_float(picture.read(context))
    if "grey" in kinds:
        clean = to_grey(clean)
    degraded = apply_degradations(
        clean, record, origin=(context.top, context.left), size=(height, width), fields=fields
    )
    inside = Window(window.top - context.top, window.left - context.left, window.height, window.width)
    return crop(degraded, inside), crop(clean, inside)


class PatchSource:
    """Draws one patch at a time from a set.

    Args:
        members: the set.
        memory: for decoded pictures.
    """

    def __init__(self, members: RestorationSet, memory: Memory) -> None:
        self._members = members
        self._clean = Pictures(members.dataset, "clean", memory)
        if members.recipe is None:
            self._degraded = Pictures(members.dataset, "degraded", memory)
            self._labels = members.dataset.select_columns(["task", "record"])
        elif members.fields is not None:
            self._names = members.dataset.select_columns("file_name")

    def draw(self, index: int, patch_size: int, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a patch; see `PatchDataset.__getitem__`.

        Args:
            index: position of the picture in the set.
            patch_size: side, pixels.
            rng: source of all that is random.
        """
        if self._members.recipe is None:
            return self._draw_pair(index, patch_size, rng)
        # The record comes first, so that it does not depend on the picture's size or the patch's.
        record = self._draw_record(index, rng)
        stored = shrink(self._clean[index], self._members.scales, patch_size, rng)
        clean = OrientedPicture(stored, sample_orientation(rng), patch_size)
        window = sample_window(clean.height, clean.width, patch_size, rng)
        fields = self._members.fields.open(record, stored.height, stored.width) if self._members.fields else {}
        if "haze" in fields:
            fields["haze"] = clean.prepare(fields["haze"][..., None])[..., 0]
        degraded, patch = degrade_window(clean, window, record, fields)
        return {
            "pixel_values": to_tensor(degraded),
            "labels": to_tensor(patch),
            "task": name_task(record),
            "severity": severity_of(record),
            "record": to_record(record),
        }

    def _draw_record(self, index: int, rng: np.random.Generator) -> tuple[Degradation, ...]:
        record = self._members.recipe.draw(rng)
        if self._members.fields is None:
            return record
        return self._members.fields.assign(record, self._names[index]["file_name"], rng)

    def _draw_pair(self, index: int, patch_size: int, rng: np.random.Generator) -> dict[str, Any]:
        orientation = sample_orientation(rng)
        stored = (self._degraded[index], self._clean[index])
        sizes = [f"{picture.height} x {picture.width}" for picture in stored]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"`dataset` must hold pairs of one size, got {' beside '.join(sizes)} at index {index}; "
                "see `python -m dataset_scripts verify`"
            )
        degraded, clean = (OrientedPicture(picture, orientation, patch_size) for picture in stored)
        window = sample_window(clean.height, clean.width, patch_size, rng)
        labels = self._labels[index]
        return {
            "pixel_values": to_tensor(to_float(degraded.read(window))),
            "labels": to_tensor(to_float(clean.read(window))),
            "task": labels["task"],
            "severity": severity_of(from_record(labels["record"])) if labels["record"] else mark_kinds(labels["task"]),
            "record": labels["record"],
        }


def severity_of(record: Sequence[Degradation]) -> torch.Tensor:
    """Return the severity of each of `KINDS`, 0 where it is absent, (7,) float32."""
    severity = torch.zeros(len(KINDS))
    for degradation in record:
        if degradation.kind in KINDS:
            severity[KINDS.index(degradation.kind)] = degradation.severity
    return severity


def mark_kinds(task: str) -> torch.Tensor:
    """Return NaN for each of `KINDS` that a task names, as their strengths are unknown, and 0 for the others, (7,).

    Args:
        task: kinds joined by `+`; "mixed": any of them; "clean": none.
    """
    present = KINDS if task == "mixed" else task.split("+")
    return torch.tensor([torch.nan if kind in present else 0.0 for kind in KINDS])


class PatchDataset(torch.utils.data.Dataset, ABC):
    """Random patches, deterministic by (seed, epoch, index).

    Args:
        patch_size: side of the square patches, pixels; smaller pictures are reflected.
        seed: non-negative.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(self, patch_size: int, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"`seed` must be at least 0, got {seed}; use any non-negative integer")
        self.seed = seed
        # Shared memory: persistent workers hold a copy of this object, but see these numbers change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._patch_size = torch.zeros((), dtype=torch.int64).share_memory_()
        self.set_patch_size(patch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, on which all draws depend; call it between epochs.

        Args:
            epoch: non-negative.

        Raises:
            ValueError: it is negative.
        """
        if epoch < 0:
            raise ValueError(f"`epoch` must be at least 0, got {epoch}; count epochs from 0")
        self._epoch.fill_(epoch)

    def set_patch_size(self, patch_size: int) -> None:
        """Choose the side of the patches; batches that workers have already prepared keep theirs.

        Args:
            patch_size: pixels, at least 1.

        Raises:
            ValueError: it is smaller.
        """
        if patch_size < 1:
            raise ValueError(f"`patch_size` must be at least 1, got {patch_size}; 48 to 256 pixels are usual")
        self._patch_size.fill_(patch_size)

    @abstractmethod
    def __len__(self) -> int:
        """Number of patches in an epoch."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw one patch.

        Args:
            index: place in the epoch.

        Returns:
            `pixel_values`, degraded, and `labels`, clean: (3, p, p) float32, RGB in [0, 1]; `task`: the kinds, joined
            by `+`; `severity`: (7,) float32 in the order of `KINDS`, 0 where a kind is absent, NaN where its strength
            is unknown; `record`: JSON from which a synthetic degradation replays.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Draw the patches of a batch, all of one size even if `set_patch_size` is called meanwhile.

        Args:
            indices: places in the epoch.
        """
        if get_worker_info() is not None:
            # Each worker has one core; OpenCV would start threads for all of them. In the caller's own process
            # (num_workers=0) the number of threads is the caller's to choose.
            cv2.setNumThreads(0)
        epoch, patch_size = int(self._epoch), int(self._patch_size)
        return [self._draw(index, epoch, patch_size) for index in indices]

    @abstractmethod
    def _draw(self, index: int, epoch: int, patch_size: int) -> dict[str, Any]: ...


class DegradedPatches(PatchDataset):
    """Random patches of clean photographs, degraded on the fly; each photograph gives one patch an epoch.

    A photograph is flipped and turned before it is degraded, so that rain still falls down and haze thickens upwards.

    Args:
        dataset: has the column `clean`.
        patch_size: side of the square patches, pixels; smaller photographs are reflected.
        seed: non-negative.
        severity: range of the severities, within 0 to 1.
        composite_probability: how often two or three kinds act together, 0 to 1.
        kinds: kinds to draw from, all equally likely.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        patch_size: int,
        seed: int = 0,
        severity: tuple[float, float] = TRAINING_SEVERITY,
        composite_probability: float = 0.2,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        super().__init__(patch_size, seed)
        recipe = DegradationRecipe(tuple(kinds), tuple(severity), composite_probability)
        self._size = len(dataset)
        self._source = PatchSource(RestorationSet(dataset, recipe), Memory())

    def __len__(self) -> int:
        """Number of photographs."""
        return self._size

    def _draw(self, index: int, epoch: int, patch_size: int) -> dict[str, Any]:
        return self._source.draw(index, patch_size, np.random.default_rng((self.seed, epoch, index)))
