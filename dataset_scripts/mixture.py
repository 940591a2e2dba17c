"""The all-in-one mixture: several sets interleaved in the wanted shares, each picture as often as its fellows.

Place i of an epoch always belongs to the same set, and the sets are spread evenly over the epoch, so that every batch
holds about their shares. Which picture it is depends on the epoch: each set is gone through in a random order, then in
another, across the ends of the epochs.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from .decoding import CACHE_BYTES, Memory
from .degraded_patches import PatchDataset, PatchSource, RestorationSet

Weights = Literal["balanced", "natural"] | Mapping[str, float]


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
        memory = Memory(cache_bytes)
        self._sources = [PatchSource(members, memory) for members in sets.values()]
        self._places = interleave(self.quotas)

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
