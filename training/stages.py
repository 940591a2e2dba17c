"""The paper's two stages: which model each builds and what it leaves behind. Both models own their loss."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from modeling_dpmambair import (
    DegradationExtractorForPreTraining,
    DPMambaIRConfig,
    DPMambaIRImageProcessor,
    DPMambaIRModel,
)
from restoration_metrics import load_lpips
from training.recipe import ModelRecipe


@dataclass(frozen=True)
class Stage:
    """A model that trains, and which picture of a pair it turns into which.

    Attributes:
        model: takes `pixel_values` (degraded) and `labels` (clean), gives `loss` and `reconstruction`.
        source: name of the batch's pictures that the model starts from.
        target: name of the batch's pictures that its reconstruction should equal.
    """

    model: PreTrainedModel
    source: str
    target: str

    def pictures(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Pick the batch's source and target pictures, (B, 3, H, W) each, RGB in [0, 1]."""
        return batch[self.source], batch[self.target]


def build_stage(recipe: ModelRecipe) -> Stage:
    """Build the model of a recipe's stage, freshly initialised.

    Args:
        recipe: the section `model`.

    Raises:
        FileNotFoundError: the model's configuration, the extractor or the LPIPS backbone is missing.
        ValueError: the restorer has no extractor to begin from.
    """
    if not Path(recipe.config).is_file():
        raise FileNotFoundError(
            f"`model.config` must be an existing JSON file, got {recipe.config!r}; see configuration/model"
        )
    config = DPMambaIRConfig.from_json_file(recipe.config)
    return _build_extractor(recipe, config) if recipe.stage == "extractor" else _build_restorer(recipe, config)


def _build_extractor(recipe: ModelRecipe, config: DPMambaIRConfig) -> Stage:
    model = DegradationExtractorForPreTraining(config.extractor_config)
    model.attach_perceptual_loss(load_lpips(recipe.lpips_network, recipe.lpips_backbone))
    return Stage(model, source="labels", target="pixel_values")


def _build_restorer(recipe: ModelRecipe, config: DPMambaIRConfig) -> Stage:
    if recipe.extractor is None:
        raise ValueError(
            "`model.extractor` must be the folder of a trained extractor, got None; "
            "train one (configuration/train/*extractor.json), then give --set model.extractor=DIR"
        )
    if not Path(recipe.extractor).is_dir():
        raise FileNotFoundError(
            f"`model.extractor` must be an existing folder, got {recipe.extractor!r}; give --set model.extractor=DIR"
        )
    model = DPMambaIRModel(config)
    model.load_extractor(recipe.extractor)
    return Stage(model, source="pixel_values", target="labels")


def save_trained(model: PreTrainedModel, folder: Path) -> None:
    """Write what a finished stage leaves: model and processor, and apart from them the pre-trained extractor.

    Args:
        model: the stage's model with its final weights.
        folder: where to; the extractor goes to `folder/extractor`.
    """
    model.save_pretrained(folder)
    DPMambaIRImageProcessor().save_pretrained(folder)
    if isinstance(model, DegradationExtractorForPreTraining):
        model.extractor.save_pretrained(folder / "extractor")
