"""Degraded patches of clean photographs, drawn on the fly (Eq. 6, arXiv:2504.17732).

All that is drawn depends on (seed, epoch, index) and on nothing else: not on the number of workers, nor on what was
drawn before.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import datasets
import numpy as np
import torch
from torch.utils.data import get_worker_info

from .degradations import KINDS, Degradation, apply_degradations, sample_degradation, to_record
from .transforms import (
    Window,
    crop,
    grow_window,
    orient,
    pad_to_patch,
    sample_orientation,
    sample_window,
    to_float,
    to_tensor,
)

CACHE_BYTES = 512 * 2**20
# Side of the squares that JPEG codes together at 4:2:0, and how far beyond a patch its colours come from, pixels.
JPEG_BLOCK, JPEG_REACH = 16, 2
# Half the side of the largest kernel of motion blur, pixels.
BLUR_REACH = 11


class DecodedPictures:
    """Random access to a dataset's photographs as arrays, many of them kept decoded.

    Decoding costs more than cutting out and degrading a patch. The cache never evicts: training visits each photograph
    once an epoch in a new order, so recency says nothing about the next visit, and keeping the first hits no less.

    Args:
        dataset: has the column `clean`.
        cache_bytes: bound of the memory for decoded pictures, in each worker process.
    """

    def __init__(self, dataset: datasets.Dataset, cache_bytes: int = CACHE_BYTES) -> None:
        self.dataset = dataset.select_columns("clean")
        self.free_bytes = cache_bytes
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray:
        """Decode a photograph, or find it decoded.

        Args:
            index: position in the dataset.

        Returns:
            (H, W, 3) uint8, RGB, not to be written to.
        """
        if index in self._kept:
            return self._kept[index]
        picture = np.asarray(self.dataset[index]["clean"])
        if picture.nbytes <= self.free_bytes:
            self._kept[index] = picture
            self.free_bytes -= picture.nbytes
        return picture


def sample_record(
    kinds: Sequence[str], severity: tuple[float, float], composite_probability: float, rng: np.random.Generator
) -> tuple[Degradation, ...]:
    """Draw what happens to a picture: one kind, or now and then two or three.

    Args:
        kinds: kinds to choose from, all equally likely.
        severity: range of the severities, drawn uniformly and independently for each kind.
        composite_probability: how often two or three kinds (as likely; no more than there are) act together.
        rng: source of randomness.

    Returns:
        The degradations, each kind at most once.
    """
    count = int(rng.integers(2, 4)) if rng.random() < composite_probability else 1
    chosen = rng.choice(len(kinds), size=min(count, len(kinds)), replace=False)
    return tuple(sample_degradation(kinds[position], float(rng.uniform(*severity)), rng) for position in chosen)


def degrade_window(picture: np.ndarray, window: Window, record: Sequence[Degradation]) -> np.ndarray:
    """Degrade a patch as it would be inside the whole picture.

    Args:
        picture: the whole picture, (H, W, 3) uint8, RGB.
        window: where the patch lies.
        record: what happens to the picture.

    Returns:
        (window.height, window.width, 3) float32 in [0, 1].
    """
    height, width = picture.shape[:2]
    kinds = {degradation.kind for degradation in record}
    context = window
    if "jpeg" in kinds:
        context = grow_window(context, JPEG_REACH, height, width, step=JPEG_BLOCK)
    if "blur" in kinds:
        context = grow_window(context, BLUR_REACH, height, width)
    degraded = apply_degradations(
        to_float(crop(picture, context)), record, origin=(context.top, context.left), size=(height, width)
    )
    inside = Window(window.top - context.top, window.left - context.left, window.height, window.width)
    return crop(degraded, inside)


def _to_example(degraded: np.ndarray, clean: np.ndarray, record: Sequence[Degradation]) -> dict[str, Any]:
    severity = torch.zeros(len(KINDS))
    for degradation in record:
        severity[KINDS.index(degradation.kind)] = degradation.severity
    return {
        "pixel_values": to_tensor(degraded),
        "labels": to_tensor(clean),
        "severity": severity,
        "record": to_record(record),
    }


class DegradedPictures(torch.utils.data.Dataset):
    """Whole photographs with one kind of degradation at a fixed severity: the same pairs at every visit.

    Args:
        dataset: has the column `clean`.
        kind: one of `KINDS`.
        severity: how bad, 0 to 1.
        seed: non-negative; with the index it decides everything that is drawn.

    Raises:
        ValueError: `seed` is negative.
    """

    def __init__(self, dataset: datasets.Dataset, kind: str, severity: float, seed: int = 0) -> None:
        _check_seed(seed)
        self.pictures = DecodedPictures(dataset, cache_bytes=0)
        self.kind, self.severity, self.seed = kind, severity, seed

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Degrade a photograph; the result is that of `DegradedPatches`, in the photograph's own size."""
        clean = to_float(self.pictures[index])
        rng = np.random.default_rng((self.seed, index))
        record = (sample_degradation(self.kind, self.severity, rng),)
        return _to_example(apply_degradations(clean, record), clean, record)


class DegradedPatches(torch.utils.data.Dataset):
    """Random patches of clean photographs, degraded on the fly; deterministic by (seed, epoch, index).

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
        severity: tuple[float, float] = (0.1, 1.0),
        composite_probability: float = 0.2,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        _check_seed(seed)
        _check_sampling(severity, composite_probability, kinds)
        self.pictures = DecodedPictures(dataset)
        self.seed = seed
        self.severity, self.composite_probability, self.kinds = tuple(severity), composite_probability, tuple(kinds)
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

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw the patch of one photograph.

        Args:
            index: position in the dataset.

        Returns:
            `pixel_values`, degraded, and `labels`, clean: (3, p, p) float32, RGB in [0, 1]; `severity`: (7,) float32
            in the order of `KINDS`, 0 where a kind is absent; `record`: JSON from which the degradation replays.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Draw the patches of a batch, all of one size even if `set_patch_size` is called meanwhile.

        Args:
            indices: positions in the dataset.
        """
        if get_worker_info() is not None:
            # Each worker has one core; OpenCV would start threads for all of them.
            cv2.setNumThreads(0)
        epoch, patch_size = int(self._epoch), int(self._patch_size)
        return [self._draw(index, epoch, patch_size) for index in indices]

    def _draw(self, index: int, epoch: int, patch_size: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, epoch, index))
        # The record comes first, so that it does not depend on the picture's size or the patch's.
        record = sample_record(self.kinds, self.severity, self.composite_probability, rng)
        picture = pad_to_patch(orient(self.pictures[index], sample_orientation(rng)), patch_size)
        window = sample_window(*picture.shape[:2], patch_size, rng)
        return _to_example(degrade_window(picture, window, record), to_float(crop(picture, window)), record)


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {seed}; use any non-negative integer")


def _check_sampling(severity: tuple[float, float], composite_probability: float, kinds: Sequence[str]) -> None:
    low, high = severity
    if not 0 <= low <= high <= 1:
        raise ValueError(f"`severity` must be a range within 0 and 1, got {severity}; give (lowest, highest)")
    if not 0 <= composite_probability <= 1:
        raise ValueError(
            f"`composite_probability` must be within 0 and 1, got {composite_probability}; 0 means single kinds only"
        )
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"`kinds` must be some of {', '.join(KINDS)}, got {tuple(kinds)}; check the spelling")
