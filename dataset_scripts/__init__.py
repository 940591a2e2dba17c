"""Pairs of degraded and clean pictures for training and measuring image restoration."""

import os
from collections.abc import Sequence
from typing import Any

import datasets

from .catalog import CORPORA
from .degradation_recipes import RECIPES, DegradationRecipe, RealFields, from_record, to_record
from .degradations import KINDS, Degradation, apply_degradations, sample_degradation
from .degraded_patches import RestorationSet
from .mixture import DegradedPatches, RestorationMixture
from .paired_restoration import PairedRestoration, load_paired
from .synthetic_restoration import (
    SyntheticRestoration,
    SyntheticRestorationConfig,
    load_clean_photographs,
    load_synthetic,
)
from .task_mixtures import MIXTURES, load_mixture
from .unseen import UNSEEN

__all__ = [
    "CORPORA",
    "KINDS",
    "MIXTURES",
    "RECIPES",
    "UNSEEN",
    "Degradation",
    "DegradationRecipe",
    "DegradedPatches",
    "PairedRestoration",
    "RealFields",
    "RestorationMixture",
    "RestorationSet",
    "SyntheticRestoration",
    "SyntheticRestorationConfig",
    "apply_degradations",
    "from_record",
    "load_clean_photographs",
    "load_mixture",
    "load_paired",
    "load_restoration_dataset",
    "load_synthetic",
    "sample_degradation",
    "to_record",
]


def load_restoration_dataset(
    name: str,
    data_dir: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    split: str | None = None,
    streaming: bool = False,
    **options: Any,
) -> datasets.Dataset | datasets.IterableDataset:
    """Load pairs of degraded and clean pictures by name: a published corpus, or clean photographs and a recipe.

    Args:
        name: key of `CORPORA` or of `RECIPES`.
        data_dir: the corpus as unpacked; for a recipe, one folder or several of clean photographs.
        split: "train" or "test" of a corpus, by default its first; None for a recipe.
        streaming: read or make pairs when they are reached, and store nothing.
        options: further arguments: `strict` and `cache_dir`; of a corpus `task`; of a recipe `seed`, `snow_masks` and
            `depths`.

    Returns:
        Columns `degraded` and `clean` (RGB pictures), `task`, `severity`, `record`, `file_name` and `index`.

    Raises:
        ValueError: the name or the split is unknown, an option is another one's, or no picture can be used.
        OSError: a folder is missing, or cannot be read.
    """
    if name in CORPORA:
        _refuse_others(name, options, ("strict", "cache_dir", "task"))
        chosen = next(iter(CORPORA[name].splits)) if split is None else split
        return load_paired(name, data_dir, chosen, streaming=streaming, **options)
    if name not in RECIPES:
        raise ValueError(
            f"`name` must be a corpus ({', '.join(CORPORA)}) or a recipe ({', '.join(RECIPES)}), got {name!r}; "
            "check the spelling"
        )
    if split is not None:
        raise ValueError(f"`split` must be None for {name}, got {split!r}; give the folder of that split")
    _refuse_others(name, options, ("strict", "cache_dir", "seed", "snow_masks", "depths"))
    return load_synthetic(name, data_dir, streaming=streaming, **options)


def _refuse_others(name: str, options: dict[str, Any], own: Sequence[str]) -> None:
    for option, value in options.items():
        if option not in own:
            raise ValueError(
                f"`{option}` must be left out for {name}, got {value!r}; only {', '.join(own)} go with it"
            )
