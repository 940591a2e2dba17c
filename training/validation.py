"""A fixed handful of held-out patches: what the averaged weights reach on each degradation, with pictures."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.utils import save_image

from dataset_scripts import RestorationSet
from dataset_scripts.decoding import Memory
from dataset_scripts.degraded_patches import PatchSource
from dpmambair.files import replacing
from training.recipe import Recipe
from training.scores import Batch, Scores
from training.stages import Stage


class Validation:
    """The handful, made once: each kind laid over the same pictures. Models that draw noise draw the same each time.

    Args:
        sets: the held-out ones, by name; clean photographs are looked at under each kind.
        recipe: the run's; severities and kinds are the training's, the seed fixes the draws.
        stage: tells what the model takes and how its outputs are scored.
    """

    def __init__(self, sets: Mapping[str, RestorationSet], recipe: Recipe, stage: Stage):
        self.stage, self.seed = stage, recipe.training.seed
        self.batches = {name: _draw(members, recipe) for name, members in _split_by_kind(sets).items()}

    @torch.no_grad()
    def run(self, model: nn.Module, accelerator: Accelerator, picture: Path) -> Scores:
        """Validate a model.

        Args:
            model: the stage's.
            accelerator: gives device and precision.
            picture: PNG file to write if the scores have pictures, one row per kind.
        """
        batches = {kind: _move(batch, accelerator.device) for kind, batch in self.batches.items()}
        with _as_validated(model, self.seed, accelerator.device), accelerator.autocast():
            outputs = {kind: model(**self.stage.inputs(batch)) for kind, batch in batches.items()}
        scores = self.stage.score(outputs, batches)
        if scores.pictures:
            _save_grid(scores.pictures, picture)
        return scores


@contextmanager
def _as_validated(model: nn.Module, seed: int, device: torch.device) -> Iterator[None]:
    """Put a model into evaluation mode with random numbers of its own, and both back afterwards."""
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
    model.train(was_training)


def _move(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _split_by_kind(sets: Mapping[str, RestorationSet]) -> dict[str, RestorationSet]:
    split = {}
    for name, members in sets.items():
        if members.recipe is None:
            split[name] = members
        else:
            split |= {kind: replace(members, recipe=members.recipe.isolate(kind)) for kind in members.recipe.kinds}
    return split


def _draw(members: RestorationSet, recipe: Recipe) -> Batch:
    count = min(recipe.data.validation_pictures, len(members))
    chosen = members.dataset.select([index * len(members) // count for index in range(count)])
    source = PatchSource(replace(members, dataset=chosen), Memory(0))
    patches = [
        source.draw(index, recipe.data.validation_patch, np.random.default_rng((recipe.training.seed, 0, index)))
        for index in range(count)
    ]
    return {name: torch.stack([patch[name] for patch in patches]) for name in ("pixel_values", "labels", "severity")}


def _save_grid(rows: list[Tensor], path: Path) -> None:
    with replacing(path) as unfinished:
        save_image(rows, unfinished, format="png", nrow=3)
