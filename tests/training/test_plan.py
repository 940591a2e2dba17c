from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modeling_dpmambair import DPMambaIRConfig
from training.plan import describe_plan, measure_activations
from training.recipe import DataRecipe, ModelRecipe, Recipe, TrainingRecipe
from training.stages import build_untrained

RECIPES = Path(__file__).resolve().parents[2] / "configuration" / "train"


def make_recipe(place: SimpleNamespace, stage: str = "restorer", **training: object) -> Recipe:
    model = ModelRecipe(stage=stage, config=str(place.model), extractor=str(place.extractor))
    settings = {"steps": 100, "batch_size": 2, "accumulation_steps": 3, "patch_schedule": ((0, 32), (50, 64))}
    return Recipe(
        model, DataRecipe(clean_dirs=(str(place.clean),), held_out_every=10), TrainingRecipe(**settings | training)
    )


@pytest.mark.parametrize("stage", ["extractor", "restorer", "describe"])
def test_plan_tells_parameters_samples_schedule_and_memory(place: SimpleNamespace, stage: str) -> None:
    recipe = make_recipe(place, stage)
    plan = describe_plan(recipe, "no", processes=2)
    model = build_untrained(recipe.model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"{sum(p.numel() for p in model.parameters()):,}, of which {trained:,} train" in plan
    assert "100 of 3 pass(es) in 2 process(es)" in plan
    assert "2 to step 100, a pass and process" in plan
    assert "1,200 patches, 66.7 epochs of 18 pictures" in plan
    assert "side 32 to step 50, 64 to step 100" in plan
    assert "3.00e-04 at step 0" in plan
    assert "1.00e-06 at step 99" in plan
    assert "GB activations of 2 at side 64 in no" in plan


def test_plan_tells_where_the_rate_begins_to_fall(place: SimpleNamespace) -> None:
    plan = describe_plan(make_recipe(place, decay_steps=20), "no", processes=1)
    assert "3.00e-04 at step 0, 3.00e-04 at step 50, 2.33e-04 at step 80, 1.00e-06 at step 99" in plan


def test_plan_counts_one_moment_of_muons_weights(place: SimpleNamespace) -> None:
    wide = {"extractor_config": {"embedding_dim": 16384, "reconstruction_dim": 64}}
    plans = [
        describe_plan(replace(recipe, model=replace(recipe.model, overrides=wide)), "no", processes=1)
        for recipe in (make_recipe(place, "extractor", optimizer=optimizer) for optimizer in ("adamw", "muon"))
    ]
    with_two, with_one = (float(plan.split("GB a process: ")[1].split(" GB")[0]) for plan in plans)
    assert with_one / with_two == pytest.approx(4 / 5, abs=0.02)  # weights, average, gradients and moments


def test_plan_of_growing_patches_in_shrinking_batches(place: SimpleNamespace) -> None:
    """9 patches of 32 pixels have more in all than 2 of 64 or 4 of 40."""
    schedules = {"patch_schedule": ((0, 32), (50, 40), (80, 64)), "batch_size": ((0, 9), (50, 4), (80, 2))}
    plan = describe_plan(make_recipe(place, accumulation_steps=1, **schedules), "no", processes=1)
    assert "9 to step 50, 4 to step 80, 2 to step 100" in plan
    assert f"{50 * 9 + 30 * 4 + 20 * 2:,} patches" in plan
    assert "GB activations of 9 at side 32" in plan


def test_plan_of_patches_that_grow_again_and_again(place: SimpleNamespace) -> None:
    plan = describe_plan(make_recipe(place, patch_schedule=((0, 32), (8, 64)), patch_cycle=10), "no", processes=1)
    assert "side 32 to step 8, 64 to step 10, and again" in plan
    assert "GB activations of 2 at side 64" in plan


class Chain(nn.Module):
    """Keeps the input of one multiplication and the output of one exponential for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.config = DPMambaIRConfig()

    def forward(self, patch: torch.Tensor, labels: torch.Tensor, severity: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=(patch * self.scale).exp().sum())


def test_activations_are_what_autograd_keeps(place: SimpleNamespace) -> None:
    assert measure_activations(Chain(), make_recipe(place), "no") == 2 * 4 * 3 * 64 * 64


def test_checkpointing_keeps_fewer_activations(place: SimpleNamespace) -> None:
    kept = [
        measure_activations(build_untrained(recipe.model), recipe, "no")
        for recipe in (make_recipe(place), make_recipe(place, activation_checkpointing=True))
    ]
    assert kept[1] < kept[0]


def test_plan_opens_no_picture(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = make_recipe(place)
    for index in range(20):
        (tmp_path / f"{index}.png").touch()
    broken = replace(recipe, data=replace(recipe.data, clean_dirs=(str(tmp_path),)))
    assert "epochs of 18 pictures" in describe_plan(broken, "no", processes=1)


def test_plan_counts_the_pairs_of_corpora(place: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("degraded", "clean"):
        for index in range(5):
            path = tmp_path / "paired_folders" / "train" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    recipe = make_recipe(place)
    data = DataRecipe(corpora=("paired_folders",), corpora_dir=str(tmp_path), paired_task="rain", held_out_every=4)
    assert "epochs of 3 pictures" in describe_plan(replace(recipe, data=data), "no", processes=1)


@pytest.mark.parametrize("recipe", ["light_cpu_restorer", "light_cpu_describe", "light_gpu_restorer"])
def test_plan_of_the_recipes_of_the_shipped_weights(recipe: str) -> None:
    plan = describe_plan(Recipe.from_file(RECIPES / f"{recipe}.json"), "no", processes=1)
    assert "GB activations of" in plan


def test_plan_of_a_restorer_that_goes_on_describing(place: SimpleNamespace) -> None:
    recipe = make_recipe(place)
    overrides = {"has_description": True, "freeze_extractor": False, "description_weight": 0.1}
    plan = describe_plan(replace(recipe, model=replace(recipe.model, overrides=overrides)), "no", processes=1)
    assert "GB activations of 2 at side 64" in plan
