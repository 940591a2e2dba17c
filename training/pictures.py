"""Batches of degraded patches in an order that depends on nothing but the seed and the step."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import torch
from accelerate import skip_first_batches
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader

from dataset_scripts import DegradedPatches, load_clean_photographs
from training.recipe import DataRecipe, Recipe


def load_photographs(data: DataRecipe) -> tuple[Dataset, Dataset]:
    """Load the clean photographs and hold every n-th back.

    Args:
        data: the recipe's section.

    Returns:
        Photographs to train on, and photographs to validate on.

    Raises:
        ValueError: the recipe names no folders.
        FileNotFoundError: a folder does not exist.
    """
    if not data.clean_dirs:
        raise ValueError(
            "`data.clean_dirs` must name a folder of clean photographs, got none; give --set data.clean_dirs=DIR1,DIR2"
        )
    for folder in data.clean_dirs:
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"`data.clean_dirs` must be existing folders, got {folder!r}; give --set data.clean_dirs=DIR1,DIR2"
            )
    photographs = load_clean_photographs(data.clean_dirs)
    held_out = range(0, len(photographs), data.held_out_every)
    kept = [index for index in range(len(photographs)) if index % data.held_out_every]
    return photographs.select(kept), photographs.select(held_out)


def build_loader(photographs: Dataset, recipe: Recipe, processes: int) -> DataLoader:
    """Build the loader of the training patches, reshuffled each epoch.

    Args:
        photographs: to train on.
        recipe: the run's.
        processes: how many training processes share the photographs.

    Raises:
        ValueError: there are fewer photographs than one batch over all processes needs.
    """
    data, training = recipe.data, recipe.training
    if len(photographs) < training.batch_size * processes:
        raise ValueError(
            f"`training.batch_size` must be at most the {len(photographs)} training photographs over {processes} "
            f"process(es), got {training.batch_size}; give more photographs or a smaller batch"
        )
    patches = DegradedPatches(
        photographs,
        patch_size=training.patch_schedule[0][1],
        seed=training.seed,
        severity=data.severity,
        composite_probability=data.composite_probability,
        kinds=data.kinds,
    )
    return DataLoader(
        patches,
        batch_size=training.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=training.workers,
        persistent_workers=training.workers > 0,
        worker_init_fn=_start_worker,
        # A generator of its own: the model's random numbers must not depend on how often the loader was restarted.
        generator=torch.Generator(),
    )


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread per worker: they share the processors with the model
    # A process group of its own: SIGTERM to the whole run must leave the workers alive until the last step is saved.
    os.setpgid(0, 0)


def patch_size_at(schedule: tuple[tuple[int, int], ...], step: int) -> tuple[int, int | None]:
    """Look up the patch size of a step.

    Args:
        schedule: pairs (first step, side in pixels), ascending from step 0.
        step: the step.

    Returns:
        The side in pixels, and the step at which it next changes (None: never).

    Example:
        >>> patch_size_at(((0, 48), (100, 64)), 99)
        (48, 100)
        >>> patch_size_at(((0, 48), (100, 64)), 100)
        (64, None)
    """
    position = bisect_right(schedule, step, key=lambda pair: pair[0])
    return schedule[position - 1][1], schedule[position][0] if position < len(schedule) else None


def training_batches(loader: Any, recipe: Recipe, start: int) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of the steps from `start` to the recipe's last, the same whatever `start` is.

    Workers fetch ahead, so a patch size set between two steps would reach them at an unknown batch. Instead the
    stream is cut where the size changes (as where an epoch ends) and begun anew there, the batches before it skipped.

    Args:
        loader: a `DataLoader` over `DegradedPatches`, prepared by Accelerate.
        recipe: the run's.
        start: steps already done.
    """
    step, steps = start, recipe.training.steps
    while step < steps:
        epoch, position = divmod(step, len(loader))
        patch_size, change = patch_size_at(recipe.training.patch_schedule, step)
        count = min(len(loader) - position, steps - step, (change or steps) - step)
        loader.dataset.set_epoch(epoch)
        loader.dataset.set_patch_size(patch_size)
        loader.set_epoch(epoch)
        source = skip_first_batches(loader, position) if position else loader
        try:
            yield from islice(source, count)
        finally:
            source.end()  # Accelerate otherwise believes that a cut epoch still runs
        step += count
