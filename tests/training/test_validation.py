"""The handful of held-out patches: the same pictures under each kind, and a run that goes on undisturbed."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from transformers.utils import ModelOutput

from dataset_scripts import KINDS
from tests.training.runs import recipe_file
from training.pictures import load_sets
from training.recipe import Recipe
from training.scores import Scores
from training.stages import Stage, build_stage
from training.validation import Validation

# Every eighth of twenty is held out, and of those three two are looked at.
HELD_OUT = ("00.png", "08.png")


class Half(nn.Module):
    """Returns pictures at half their brightness, and random numbers for a loss."""

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> ModelOutput:
        assert not self.training
        return ModelOutput(loss=torch.rand(()), reconstruction=pixel_values / 2)


@pytest.fixture(scope="module")
def recipe(place: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return Recipe.from_file(recipe_file(place, tmp_path_factory.mktemp("recipe")))


@pytest.fixture(scope="module")
def validation(recipe: Recipe) -> Validation:
    stage = build_stage(recipe.model)
    return Validation(load_sets(recipe.data).held_out, recipe, Stage(Half(), stage.inputs, stage.score))


def run(validation: Validation, model: nn.Module, picture: Path) -> Scores:
    return validation.run(model, Accelerator(cpu=True), picture)


def is_part_of(patch: torch.Tensor, path: Path) -> bool:
    """Tell whether a patch, (3, H, W), was cut out of a picture, perhaps turned or mirrored."""
    with Image.open(path) as picture:
        whole = np.asarray(picture, np.float32) / 255
    wanted = patch.permute(1, 2, 0).numpy()
    turned = [np.rot90(each, turns) for each in (wanted, wanted[:, ::-1]) for turns in range(4)]
    distances = [cv2.matchTemplate(whole, np.ascontiguousarray(each), cv2.TM_SQDIFF).min() for each in turned]
    return min(distances) < 1e-2


def test_each_kind_alone_lies_over_the_same_pictures(validation: Validation, place: SimpleNamespace) -> None:
    assert list(validation.batches) == list(KINDS)
    for position, batch in enumerate(validation.batches.values()):
        assert batch["labels"].shape == (2, 3, 32, 32)
        places = [[is_part_of(patch, place.clean / name) for name in HELD_OUT] for patch in batch["labels"]]
        assert places == [[True, False], [False, True]]
        assert not torch.equal(batch["pixel_values"], batch["labels"])
        others = batch["severity"].clone()
        others[:, position] = 0
        assert not others.any()
        assert (batch["severity"][:, position] > 0).all()


def test_patches_are_drawn_again_by_the_same_seed_alone(recipe: Recipe, validation: Validation) -> None:
    sets = load_sets(recipe.data).held_out
    again = Validation(sets, recipe, validation.stage)
    other = Validation(sets, Recipe.from_dict(recipe.to_dict() | {"training": {"seed": 1}}), validation.stage)
    for kind, batch in validation.batches.items():
        assert torch.equal(again.batches[kind]["pixel_values"], batch["pixel_values"])
        assert not torch.equal(other.batches[kind]["pixel_values"], batch["pixel_values"])


def test_gain_is_scikit_images(validation: Validation, tmp_path: Path) -> None:
    numbers = run(validation, Half(), tmp_path / "grid.png").numbers
    for kind, batch in validation.batches.items():
        degraded, clean = (batch[name].double().numpy() for name in ("pixel_values", "labels"))
        gains = [
            peak_signal_noise_ratio(truth, before / 2, data_range=1)
            - peak_signal_noise_ratio(truth, before, data_range=1)
            for before, truth in zip(degraded, clean, strict=True)
        ]
        assert numbers[f"gain_{kind}"] == pytest.approx(np.mean(gains), abs=1e-3)


def test_grid_shows_degraded_restored_and_clean_of_each_kind(validation: Validation, tmp_path: Path) -> None:
    run(validation, Half(), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        pixels = np.asarray(grid.convert("RGB"), float) / 255
    assert pixels.shape == (2 + 34 * len(KINDS), 2 + 34 * 3, 3)
    for row, batch in enumerate(validation.batches.values()):
        top = 2 + 34 * row
        cells = [pixels[top : top + 32, 2 + 34 * column : 34 + 34 * column] for column in range(3)]
        degraded, clean = (batch[name][0].permute(1, 2, 0).numpy() for name in ("pixel_values", "labels"))
        for cell, picture in zip(cells, (degraded, degraded / 2, clean), strict=True):
            np.testing.assert_allclose(cell, picture, atol=1 / 255)


def test_training_goes_on_as_if_there_had_been_none(validation: Validation, tmp_path: Path) -> None:
    model = Half().train()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = run(validation, model, tmp_path / "grid.png")
    assert torch.equal(torch.rand(4), expected)
    assert model.training
    # Other random numbers have been drawn since; the validation draws its own.
    assert run(validation, model, tmp_path / "grid.png").loss == first.loss
