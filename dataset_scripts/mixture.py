"""Datasets of patches: each photograph in turn, or the all-in-one mixture of several sets.

All that is drawn depends on (seed, epoch, index) and on nothing else: not on the number of workers, nor on what was
drawn before.

The mixture interleaves the sets in the wanted shares, each picture as often as its fellows. Place i of an epoch always
belongs to the same set, and the sets are spread evenly over the epoch, so that every batch holds about their shares.
Which picture it is depends on the epoch: each set is gone through in a random order, then in another, across the ends
of the epochs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import cv2
import datasets
import numpy as np
import torch
from torch.utils.data import get_worker_info

from .decoding import CACHE_BYTES, Memory
from .degradation_recipes import TRAINING_SEVERITY, DegradationRecipe
from .degradations import KINDS
from .degraded_patches import PatchSource, RestorationSet

Weights = Literal["balanced", "natural"] | Mapping[str, float]


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


class RestorationMixture(PatchDataset):
    """Random patches of several sets, by task or by corpus.

    To weigh several corpora of one task as one set, join them with `datasets.concatenate_datasets`.

    Args:
        sets: by name.
        weights: share of each set in an epoch, in any unit, such as how many patches of it are wanted; "balanced" for
            equal shares, "natural" for the sets' own sizes.
        patch_size: side of the square patches, pixels; smaller pictures are reflected.
        seed: non-negative.
        epoch_size: patches in an epoch; by default as many as there are pictures.
        cache_bytes: memory for pictures kept decoded, all sets together, in each worker process.

    Raises:
        ValueError: an argument is outside its range, or the epoch is too short for a set's share.
    """

    def __init__(
        self,
        sets: Mapping[str, RestorationSet],
        weights: Weights,
        patch_size: int,
        seed: int = 0,
        epoch_size: int | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        super().__init__(patch_size, seed)
        self.names = tuple(sets)
        sizes = {name: len(members) for name, members in sets.items()}
        _check_sets(sizes)
        self.sizes = tuple(sizes.values())
        shares = _to_shares(weights, sizes)
        self.quotas = apportion(shares, sum(self.sizes) if epoch_size is None else epoch_size)
        if 0 in self.quotas:
            raise ValueError(
                f"`epoch_size` must give each of the sets a patch, got {epoch_size} for shares {shares}; lengthen it"
            )
        self._places = interleave(self.quotas)
        memory = Memory(cache_bytes)
        self._sources = [PatchSource(members, memory) for members in sets.values()]

    def __len__(self) -> int:
        """Number of patches in an epoch."""
        return len(self._places)

    def locate(self, index: int, epoch: int) -> tuple[str, int]:
        """Tell which picture a place in an epoch shows.

        Args:
            index: place in the epoch.
            epoch: number of the epoch.

        Returns:
            Name of the set, and the picture's position in it.
        """
        member, visit = self._places[index].tolist()
        round_, position = divmod(epoch * self.quotas[member] + visit, self.sizes[member])
        order = _shuffle(self.seed, member, round_, self.sizes[member])
        return self.names[member], int(order[position])

    def _draw(self, index: int, epoch: int, patch_size: int) -> dict[str, Any]:
        name, position = self.locate(index, epoch)
        source = self._sources[self.names.index(name)]
        return source.draw(position, patch_size, np.random.default_rng((self.seed, epoch, index)))


@lru_cache(maxsize=32)
def _shuffle(seed: int, member: int, round_: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, member, round_, size)).permutation(size)


def _check_sets(sizes: Mapping[str, int]) -> None:
    empty = [name for name, size in sizes.items() if size == 0]
    if empty or not sizes:
        raise ValueError(f"`sets` must be one or more sets with pictures, got {dict(sizes)}; leave out the empty ones")


def _to_shares(weights: Weights, sizes: Mapping[str, int]) -> tuple[float, ...]:
    if weights == "natural":
        return tuple(sizes.values())
    if weights == "balanced":
        return (1.0,) * len(sizes)
    if isinstance(weights, str):
        raise ValueError(
            f"`weights` must be 'balanced', 'natural' or a weight of each set, got {weights!r}; choose one of them"
        )
    if weights.keys() != sizes.keys() or not all(weight > 0 for weight in weights.values()):
        raise ValueError(
            f"`weights` must give each of {sorted(sizes)} a positive weight, got {dict(weights)}; "
            "leave a set out of `sets` to switch it off"
        )
    return tuple(weights[name] for name in sizes)


def apportion(shares: tuple[float, ...], total: int) -> tuple[int, ...]:
    """Divide a whole number in given shares, each rounded so that the sum is exact (largest remainders).

    Args:
        shares: positive, in any unit.
        total: what to divide.

    Example:
        >>> apportion((1, 1, 1), 10)
        (4, 3, 3)
    """
    exact = np.asarray(shares, float) / sum(shares) * total
    parts = np.floor(exact).astype(int)
    largest = np.argsort(parts - exact, kind="stable")[: total - parts.sum()]
    parts[largest] += 1
    return tuple(parts.tolist())


def interleave(quotas: tuple[int, ...]) -> np.ndarray:
    """Spread the visits of each set evenly.

    Args:
        quotas: visits of each set.

    Returns:
        For each place of the epoch the set and the number of its visit, (sum of quotas, 2) int64.

    Example:
        >>> interleave((4, 2))[:, 0].tolist()
        [0, 1, 0, 0, 1, 0]
    """
    members = np.repeat(np.arange(len(quotas)), quotas)
    visits = np.concatenate([np.arange(quota) for quota in quotas])
    order = np.argsort((visits + 0.5) / np.asarray(quotas)[members], kind="stable")
    return np.stack((members, visits), axis=1)[order]
