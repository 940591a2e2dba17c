"""A fixed handful of held-out patches: the averaged weights' loss, gain per degradation, and pictures to look at."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchvision.utils import save_image

from dataset_scripts import DegradedPatches
from restoration_metrics import psnr
from training.recipe import Recipe
from training.stages import Stage


@dataclass(frozen=True)
class Scores:
    """What a validation found.

    Attributes:
        loss: mean of the model's loss over the kinds.
        gain: per kind, PSNR of the reconstruction minus PSNR of the picture it began from, dB.
    """

    loss: float
    gain: dict[str, float]


class Validation:
    """The handful, made once: each kind laid over the same pictures. Models that draw noise draw the same each time.

    Args:
        photographs: the held-out ones.
        recipe: the run's; severities and kinds are the training's, the seed fixes the draws.
        stage: tells which picture becomes which.
    """

    def __init__(self, photographs: Dataset, recipe: Recipe, stage: Stage):
        self.stage, self.seed = stage, recipe.training.seed
        count = min(recipe.data.validation_pictures, len(photographs))
        chosen = photographs.select([index * len(photographs) // count for index in range(count)])
        self.batches = {kind: _degrade_all(chosen, recipe, kind) for kind in recipe.data.kinds}

    @torch.no_grad()
    def run(self, model: nn.Module, accelerator: Accelerator, picture: Path) -> Scores:
        """Validate a model.

        Args:
            model: takes `pixel_values` and `labels`.
            accelerator: gives device and precision.
            picture: PNG file to write: per kind a row with source, reconstruction and target of the first patch.
        """
        losses, gain, rows = [], {}, []
        with _as_validated(model, self.seed, accelerator.device):
            for kind, batch in self.batches.items():
                batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
                with accelerator.autocast():
                    output = model(**batch)
                source, target = self.stage.pictures(batch)
                rebuilt = output.reconstruction.float().clamp(0, 1)
                losses.append(float(output.loss))
                gain[kind] = float(_mean_gain(source, rebuilt, target))
                rows += [source[0].cpu(), rebuilt[0].cpu(), target[0].cpu()]
        _save_grid(rows, picture)
        return Scores(sum(losses) / len(losses), gain)


@contextmanager
def _as_validated(model: nn.Module, seed: int, device: torch.device) -> Iterator[None]:
    """Put a model into evaluation mode with random numbers of its own, and both back afterwards."""
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
    model.train(was_training)


def _degrade_all(photographs: Dataset, recipe: Recipe, kind: str) -> dict[str, Tensor]:
    patches = DegradedPatches(
        photographs,
        patch_size=recipe.data.validation_patch,
        seed=recipe.training.seed,
        severity=recipe.data.severity,
        composite_probability=0.0,
        kinds=(kind,),
    )
    batch = default_collate([patches[index] for index in range(len(patches))])
    return {name: batch[name] for name in ("pixel_values", "labels")}


def _mean_gain(source: Tensor, rebuilt: Tensor, target: Tensor) -> Tensor:
    gain = psnr(rebuilt, target) - psnr(source, target)
    return gain[gain.isfinite()].mean()  # a flat patch that the kind leaves as it is has no finite PSNR


def _save_grid(rows: list[Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    save_image(rows, unfinished, format="png", nrow=3)
    os.replace(unfinished, path)
