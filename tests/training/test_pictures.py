from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dataset_scripts import DegradationRecipe
from training.pictures import SYNTHETIC, ReadablePatches, load_sets, training_steps
from training.recipe import DataRecipe, ModelRecipe, Recipe, TrainingRecipe

SCHEDULE = ((0, 32), (6, 40), (13, 48))
RECIPE = Recipe(ModelRecipe(), DataRecipe(), TrainingRecipe(steps=14, batch_size=3, patch_schedule=SCHEDULE))
SIDES = [32] * 6 + [40] * 7 + [48]
# Of the twelve samples 4, 5 and 3 make a batch: epochs of 3, 2 and 4 steps, the second phase ending inside one.
SHRINKING = replace(RECIPE, training=replace(RECIPE.training, batch_size=((0, 4), (4, 5), (9, 3))))


class Echo(Dataset):
    """Twelve samples that tell what they were asked for."""

    def __init__(self) -> None:
        self.epoch, self.patch_size = (torch.zeros((), dtype=torch.int64).share_memory_() for _ in range(2))

    def __len__(self) -> int:
        return 12

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def set_patch_size(self, patch_size: int) -> None:
        self.patch_size.fill_(patch_size)

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        return index, int(self.epoch), int(self.patch_size)


def batches_from(start: int, workers: int = 0, recipe: Recipe = RECIPE) -> list[tuple[list[int], ...]]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=5)
    )
    echo = Echo()

    def open_loader(batch_size: int) -> DataLoader:
        return accelerator.prepare(
            DataLoader(
                echo,
                batch_size=batch_size,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                persistent_workers=workers > 0,
                generator=torch.Generator(),
            )
        )

    steps = training_steps(open_loader, recipe, start)
    return [tuple(part.tolist() for part in batch) for (batch,) in steps]


def test_every_epoch_shows_every_picture_once_in_another_order() -> None:
    batches = batches_from(0)
    epochs = [[index for batch in batches[first : first + 4] for index in batch[0]] for first in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_batches_know_their_epoch_and_the_patch_size_of_their_step() -> None:
    for step, (_, epochs, patch_sizes) in enumerate(batches_from(0)):
        assert set(epochs) == {step // 4}
        assert set(patch_sizes) == {SIDES[step]}


@pytest.mark.parametrize("start", [1, 4, 6, 7, 13, 14])
def test_batches_are_the_same_wherever_one_begins(start: int) -> None:
    assert batches_from(start) == batches_from(0)[start:]


def test_batches_are_the_same_in_worker_processes() -> None:
    assert batches_from(0, workers=2) == batches_from(0)


def test_batch_size_follows_its_schedule_and_begins_a_new_epoch() -> None:
    batches = batches_from(0, recipe=SHRINKING)
    assert [len(batch[0]) for batch in batches] == [4] * 4 + [5] * 5 + [3] * 5
    assert [epochs[0] for _, epochs, _ in batches] == [0, 0, 0, 1, 2, 2, 3, 3, 4, 5, 5, 5, 5, 6]
    assert [sizes[0] for *_, sizes in batches] == SIDES
    epoch = [index for batch in batches[9:13] for index in batch[0]]
    assert sorted(epoch) == list(range(12))


@pytest.mark.parametrize("start", [1, 4, 5, 8, 9, 10, 14])
def test_batches_of_changing_size_are_the_same_wherever_one_begins(start: int) -> None:
    assert batches_from(start, recipe=SHRINKING) == batches_from(0, recipe=SHRINKING)[start:]


def test_epoch_of_few_pictures_goes_through_all_of_them_again_and_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("training.pictures.LEAST_EPOCH", 10)
    for index in range(4):
        Image.fromarray(np.full((20, 24, 3), 40 * index, np.uint8)).save(tmp_path / f"{index}.png")
    recipe = replace(RECIPE, data=DataRecipe(clean_dirs=(str(tmp_path),), held_out_every=4))
    patches = ReadablePatches(load_sets(recipe.data).kept, recipe)
    rounds = [[patches.locate(place, 0)[1] for place in range(first, first + 3)] for first in range(0, 12, 3)]
    assert len(patches) == 12
    assert all(sorted(each) == [0, 1, 2] for each in rounds)


def test_data_section_reaches_the_recipe_of_the_clean_photographs(tmp_path: Path) -> None:
    for index in range(4):
        Image.fromarray(np.full((20, 24, 3), 40 * index, np.uint8)).save(tmp_path / f"{index}.png")
    drawn = {
        "severity": (0.0, 0.8),
        "composite_probability": 0.25,
        "kinds": ("rain", "noise"),
        "identity_probability": 0.1,
        "grey_probability": 0.2,
        "file_jpeg_probability": 0.5,
        "varied_weather": True,
        "varied_blur": True,
        "varied_light": True,
    }
    data = DataRecipe(
        clean_dirs=(str(tmp_path),), kind_weights={"rain": 2.0}, scales=(0.5, 1.0), held_out_every=2, **drawn
    )
    sets = load_sets(data)
    expected = DegradationRecipe(weights={"rain": 2.0}, **drawn)
    assert (sets.kept[SYNTHETIC].recipe, sets.held_out[SYNTHETIC].recipe) == (expected, expected)
    assert sets.kept[SYNTHETIC].scales == (0.5, 1.0)
    assert (len(sets), len(sets.held_out[SYNTHETIC])) == (2, 2)


def test_patch_sizes_come_again_after_a_cycle() -> None:
    training = replace(RECIPE.training, patch_schedule=((0, 32), (3, 40)), patch_cycle=4)
    sizes = [batch[2][0] for batch in batches_from(0, recipe=replace(RECIPE, training=training))]
    assert sizes == [32, 32, 32, 40] * 3 + [32, 32]
