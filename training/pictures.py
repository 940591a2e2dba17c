"""Batches of degraded patches in an order that depends on nothing but the seed and the step."""

import logging
import os
import signal
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader

from dataset_scripts import (
    CORPORA,
    DegradationRecipe,
    RestorationMixture,
    RestorationSet,
    load_clean_photographs,
    load_paired,
)
from dataset_scripts.pairing import locate_split, pair_by_name
from dataset_scripts.synthetic_restoration import list_photographs
from training.recipe import DataRecipe, Recipe, TrainingRecipe

SYNTHETIC = "synthetic"
# What asks a run to save and to end.
STOPPING = signal.SIGTERM, signal.SIGINT
UNREADABLE = OSError, SyntaxError  # Pillow raises the second on some broken PNG files
# Patches of an epoch at least. Where one ends all workers stand still until one of them has drawn the next batch: with
# epochs of some hundred pictures a GPU would mostly wait.
LEAST_EPOCH = 2**16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSets:
    """What a recipe's data section names.

    Attributes:
        kept: by name, what is trained on.
        held_out: by name, every n-th picture of each set, in the same order.
    """

    kept: dict[str, RestorationSet]
    held_out: dict[str, RestorationSet]

    def __len__(self) -> int:
        """Number of pictures that are trained on."""
        return sum(map(len, self.kept.values()))


def load_sets(data: DataRecipe) -> TrainingSets:
    """Load the clean photographs and the paired corpora of a recipe, and hold every n-th picture back.

    Args:
        data: the recipe's section.

    Raises:
        ValueError: the recipe names no pictures.
        FileNotFoundError: a folder does not exist.
    """
    if not data.clean_dirs and not data.corpora:
        raise ValueError(
            "`data.clean_dirs` must name a folder of clean photographs while `data.corpora` names none, got none; "
            "give --set data.clean_dirs=DIR1,DIR2"
        )
    whole = {name: RestorationSet(_load_corpus(name, data)) for name in data.corpora}
    if data.clean_dirs:
        for folder in data.clean_dirs:
            _check_folder("clean_dirs", folder)
        degradations = DegradationRecipe(
            data.kinds,
            data.severity,
            data.composite_probability,
            data.kind_weights,
            identity_probability=data.identity_probability,
            grey_probability=data.grey_probability,
            file_jpeg_probability=data.file_jpeg_probability,
            varied_weather=data.varied_weather,
            varied_blur=data.varied_blur,
            varied_light=data.varied_light,
        )
        whole[SYNTHETIC] = RestorationSet(load_clean_photographs(data.clean_dirs), degradations, scales=data.scales)
    kept = {name: _select(members, data.held_out_every, is_held_out=False) for name, members in whole.items()}
    held_out = {name: _select(members, data.held_out_every, is_held_out=True) for name, members in whole.items()}
    return TrainingSets(kept, held_out)


def count_pictures(data: DataRecipe) -> int:
    """Count by their names what a recipe trains on; no picture is opened.

    Args:
        data: the recipe's section.

    Raises:
        ValueError: a folder holds no pictures, or some that another holds too.
        OSError: a folder is missing or does not look like its corpus.
    """
    splits = [locate_split(CORPORA[name], "train", _corpus_folder(name, data)) for name in data.corpora]
    counts = [len(pair_by_name(split)[0]) for split in splits]
    if data.clean_dirs:
        counts.append(len(list_photographs(data.clean_dirs)))
    return sum(count - -(-count // data.held_out_every) for count in counts)


def _load_corpus(name: str, data: DataRecipe) -> Dataset:
    task = data.paired_task if name == "paired_folders" else None
    return load_paired(name, _corpus_folder(name, data), "train", task=task)


def _corpus_folder(name: str, data: DataRecipe) -> str:
    if data.corpora_dir is None:
        raise ValueError(
            f"`data.corpora_dir` must be the folder that holds {', '.join(data.corpora)}, got None; "
            "give --set data.corpora_dir=DIR"
        )
    folder = str(Path(data.corpora_dir, name))
    _check_folder("corpora_dir", folder)
    return folder


def _check_folder(setting: str, folder: str) -> None:
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"`data.{setting}` must be existing folders, got {folder!r}; give --set data.{setting}=DIR"
        )


def _select(members: RestorationSet, every: int, *, is_held_out: bool) -> RestorationSet:
    chosen = [index for index in range(len(members)) if (index % every == 0) == is_held_out]
    return replace(members, dataset=members.dataset.select(chosen))


class ReadablePatches(RestorationMixture):
    """Patches of which a picture that cannot be read is named, and ends the run or gives way to the next one.

    An epoch goes through the pictures as often as makes `LEAST_EPOCH` patches.

    Args:
        sets: the pictures, by name.
        recipe: the run's.
    """

    def __init__(self, sets: dict[str, RestorationSet], recipe: Recipe):
        training, pictures = recipe.training, sum(map(len, sets.values()))
        self.sets, self.is_replacing = sets, recipe.data.unreadable == "replace"
        super().__init__(
            sets,
            recipe.data.weights,
            training.patch_schedule[0][1],
            training.seed,
            epoch_size=-(-LEAST_EPOCH // pictures) * pictures,
        )

    def _draw(self, index: int, epoch: int, patch_size: int) -> dict[str, Any]:
        for place in range(index, index + sum(self.sizes)):
            try:
                return super()._draw(place % len(self), epoch, patch_size)
            except UNREADABLE as error:
                self._report(*self.locate(place % len(self), epoch), error)
        raise ValueError("`data` must name readable pictures, got none; restore the files")

    def _report(self, name: str, position: int, error: Exception) -> None:
        """Warn that a picture cannot be read; a `ValueError` says so where nothing may take its place."""
        file_name = self.sets[name].dataset.select_columns("file_name")[position]["file_name"]
        if not self.is_replacing:
            raise ValueError(
                f"{file_name!r} must be a readable picture, got {error}; restore it, or give --set "
                "data.unreadable=replace to train on the next one in its place"
            ) from error
        logger.warning("%r cannot be read (%s); the next picture takes its place", file_name, error)


def check_batches(sets: TrainingSets, training: TrainingRecipe, processes: int) -> None:
    """Refuse batches that an epoch cannot fill.

    Args:
        sets: from `load_sets`.
        training: the run's.
        processes: how many training processes share the pictures.

    Raises:
        ValueError: there are fewer pictures than one batch over all processes needs.
    """
    largest = max(patches for patches, *_ in training.batch_phases())
    if len(sets) < largest * processes:
        raise ValueError(
            f"`training.batch_size` must be at most the {len(sets)} training pictures over {processes} "
            f"process(es), got {largest}; give more pictures or a smaller batch"
        )


def build_loader(patches: ReadablePatches, workers: int, device: torch.device, batch_size: int) -> DataLoader:
    """Build a loader of the training patches, of which each training process gets its share.

    Args:
        patches: draw their own random order, which spreads the sets over each batch.
        workers: processes.
        device: where the batches go.
        batch_size: patches.
    """
    loader = DataLoader(
        patches,
        batch_size=batch_size,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),  # so that batches reach a card beside its work
        worker_init_fn=_start_worker,
        # A generator of its own: the model's random numbers must not depend on how often the loader was restarted.
        generator=torch.Generator(),
    )
    # By this function, as the accelerator's own method would keep every loader alive, and so its workers.
    return prepare_data_loader(loader, device, put_on_device=True, non_blocking=True)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread per worker: they share the processors with the model
    # Sent to the whole process group, as by Ctrl-C and by schedulers, they must leave the workers alive until the last
    # step is saved. SIGTERM of the run itself ends a worker: it comes when the run fails.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_by, args=(os.getppid(),), daemon=True).start()


def _end_by(process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(0)


def training_steps(open_loader: Callable[[int], Any], recipe: Recipe, start: int) -> Iterator[list[dict[str, Tensor]]]:
    """Yield the batches that each step accumulates, from step `start` to the recipe's last, the same whatever it is.

    Workers fetch ahead, so a patch size set between two steps would reach them at an unknown batch. Instead the
    stream is cut where the size changes (as where an epoch ends) and begun anew there, the batches before it skipped.
    Where the batch size changes a new epoch begins, with a new loader.

    Args:
        open_loader: from a batch size, a `DataLoader` over `ReadablePatches`, prepared by Accelerate.
        recipe: the run's.
        start: steps already done.
    """
    batches = _training_batches(open_loader, recipe, start)
    for _ in range(start, recipe.training.steps):
        yield list(islice(batches, recipe.training.accumulation_steps))


def _training_batches(open_loader: Callable[[int], Any], recipe: Recipe, start: int) -> Iterator[dict[str, Tensor]]:
    first_epoch = 0
    for batch_size, begin, end in recipe.training.batch_phases():
        loader = open_loader(batch_size)
        yield from _phase_batches(loader, recipe.training, range(max(start, begin), end), begin, first_epoch)
        first_epoch += -(-(end - begin) * recipe.training.accumulation_steps // len(loader))


def _phase_batches(
    loader: Any, training: TrainingRecipe, steps: range, begin: int, first_epoch: int
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of some steps of a phase, which began at step `begin` with epoch `first_epoch`."""
    a_step = training.accumulation_steps
    batch, batches = (steps.start - begin) * a_step, (steps.stop - begin) * a_step
    phases = training.patch_phases()
    while batch < batches:
        epoch, position = divmod(batch, len(loader))
        patch_size, _, change = phases[bisect_right(phases, begin + batch // a_step, key=lambda phase: phase[1]) - 1]
        count = min(len(loader) - position, min(batches, (change - begin) * a_step) - batch)
        loader.dataset.set_epoch(first_epoch + epoch)
        loader.dataset.set_patch_size(patch_size)
        loader.set_epoch(first_epoch + epoch)
        source = skip_first_batches(loader, position) if position else loader
        try:
            yield from islice(source, count)
        finally:
            source.end()  # Accelerate otherwise believes that a cut epoch still runs
        batch += count
