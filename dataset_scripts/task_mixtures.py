"""The all-in-one protocols by name: which corpora stand for which task, in training and in test.

`RestorationMixture(load_mixture("five_tasks", DATA, "train"), "balanced", patch_size=128)` interleaves them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import datasets

from .degradation_recipes import RECIPES
from .degraded_patches import RestorationSet
from .paired_restoration import load_paired


@dataclass(frozen=True)
class Part:
    """What stands for one task.

    Attributes:
        corpora: keys of `CORPORA` and their splits, joined to one set.
        recipe: key of `RECIPES` by which clean pictures are degraded; None for pairs.
    """

    corpora: tuple[tuple[str, str], ...]
    recipe: str | None = None


def _both(corpus: str) -> tuple[Part, Part]:
    """A corpus that has both splits."""
    return Part(((corpus, "train"),)), Part(((corpus, "test"),))


# By task, what is trained on and what is tested on.
SEVEN_TASKS = {
    "haze": _both("reside6k"),
    "rain": (Part((("rain13k", "train"),)), Part((("rain100h", "test"),))),
    "snow": _both("snow100k"),
    "low_light": (
        Part((("lol", "train"), ("lsrw", "train"))),
        Part((("lol", "test"), ("lsrw", "test"))),
    ),
    "blur": _both("gopro"),
    "jpeg": (Part((("waterlooed", "train"),), "jpeg"), Part((("bsd400", "test"),), "jpeg_mid")),
    "noise": (Part((("waterlooed", "train"),), "noise"), Part((("bsd400", "test"),), "noise_mid")),
}
FIVE_TASKS = {
    "haze": (Part((("reside_ots", "train"),)), Part((("reside_sots_outdoor", "test"),))),
    "rain": _both("rain100l"),
    "noise": (
        Part((("bsd400", "test"), ("waterlooed", "train")), "noise"),
        Part((("cbsd68", "test"),), "noise_sigma25"),
    ),
    "blur": _both("gopro"),
    "low_light": _both("lol"),
}
MIXTURES: Mapping[str, Mapping[str, tuple[Part, Part]]] = MappingProxyType(
    {"seven_tasks": SEVEN_TASKS, "five_tasks": FIVE_TASKS}
)
"""`seven_tasks`: the paper's; `five_tasks`: the field's (SOTS, Rain100L, CBSD68, GoPro, LOL)."""


def load_mixture(
    name: str,
    data_dir: str | os.PathLike,
    split: str,
    *,
    strict: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, RestorationSet]:
    """Load the corpora of a protocol, ready for `RestorationMixture`.

    Args:
        name: key of `MIXTURES`.
        data_dir: holds a folder of each corpus' name, with the corpus as unpacked.
        split: "train" or "test".
        strict: raise instead of leaving pictures out.
        cache_dir: where `datasets` keeps its tables; None for its own choice.

    Returns:
        By task, its set.

    Raises:
        ValueError: the name or the split is unknown, or a corpus has no sound pictures.
        OSError: the folder of a corpus is missing, cannot be read, or does not look like it.
    """
    if name not in MIXTURES:
        raise ValueError(f"`name` must be one of {', '.join(MIXTURES)}, got {name!r}; check the spelling")
    if split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', got {split!r}; choose one of them")
    options = {"strict": strict, "cache_dir": cache_dir}
    sets = {}
    for task, (training, test) in MIXTURES[name].items():
        part = training if split == "train" else test
        loaded = [
            load_paired(corpus, Path(data_dir, corpus), its_split, **options) for corpus, its_split in part.corpora
        ]
        recipe = None if part.recipe is None else RECIPES[part.recipe]
        sets[task] = RestorationSet(datasets.concatenate_datasets(loaded), recipe)
    return sets
