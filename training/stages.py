"""The three stages: which model each builds, what of a batch it takes and what it leaves behind.

All models own their loss, so the loop needs to know none of this.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from modeling_dpmambair import (
    DegradationExtractorConfig,
    DegradationExtractorForDescription,
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DPMambaIRConfig,
    DPMambaIRImageProcessor,
    DPMambaIRModel,
)
from restoration_metrics import load_lpips
from training.recipe import ModelRecipe
from training.scores import Batch, Scores, score_descriptions, score_pictures


@dataclass(frozen=True)
class Stage:
    """A model that trains, on what, and how it is scored.

    Attributes:
        model: takes `pixel_values` (degraded pictures) and `labels`, gives `loss`.
        inputs: picks the model's arguments out of a batch.
        score: from the outputs and batches per kind, the scores.
    """

    model: PreTrainedModel
    inputs: Callable[[Batch], Batch]
    score: Callable[[Mapping[str, ModelOutput], Mapping[str, Batch]], Scores]


def build_stage(recipe: ModelRecipe) -> Stage:
    """Build the model of a recipe's stage with the weights that it starts from, in float32.

    Args:
        recipe: the section `model`.

    Raises:
        FileNotFoundError: the model's configuration, a folder to start from or the LPIPS backbone is missing.
        ValueError: the configuration breaks a rule, the stage has no extractor to begin from, or a folder to begin
            from is broken.
    """
    build = {"extractor": _build_extractor, "restorer": _build_restorer, "describe": _build_describer}
    try:
        return build[recipe.stage](recipe)
    except (RuntimeError, TypeError, KeyError, StrictDataclassError, SafetensorError) as error:
        folder, reason = recipe.init_from or recipe.extractor, " ".join(str(error).split())
        raise ValueError(
            f"`model.init_from` and `model.extractor` must be folders of trained models, got {folder!r}: {reason}; "
            "name one that training left"
        ) from error


def build_untrained(recipe: ModelRecipe) -> PreTrainedModel:
    """Build the model of a recipe's stage with random weights, to count what is in it.

    Args:
        recipe: the section `model`; no trained extractor is needed, except by the describe stage, which takes its
            configuration from there.
    """
    config = read_config(recipe)
    if recipe.stage == "restorer":
        return DPMambaIRModel(config)
    is_description = recipe.stage == "describe"
    build = DegradationExtractorForDescription if is_description else DegradationExtractorForPreTraining
    return build(config.extractor_config)


def _build_extractor(recipe: ModelRecipe) -> Stage:
    model = _start(DegradationExtractorForPreTraining, recipe)
    if model.config.lpips_weight > 0:
        model.attach_perceptual_loss(load_lpips(recipe.lpips_network, recipe.lpips_backbone))
    inputs = _pictures if model.description_head is None else _pictures_and_severity
    return Stage(model, inputs, partial(score_pictures, source="labels", target="pixel_values"))


def _build_restorer(recipe: ModelRecipe) -> Stage:
    model = _start(DPMambaIRModel, recipe)
    source = model.config.embedding_source
    if source == "given":
        raise ValueError("`embedding_source` must be 'extractor' or 'class_label' to train, got 'given'; choose one")
    if source == "extractor" and (recipe.extractor is not None or recipe.init_from is None):
        model.load_extractor(_find_extractor(recipe))
        if model.config.reads_description or model.config.description_weight > 0:
            model.load_description(_find_extractor(recipe))
    inputs = _pictures_and_classes if source == "class_label" else _pictures
    if model.config.description_weight > 0:
        inputs = _pictures_and_severity
    return Stage(model, inputs, partial(score_pictures, source="pixel_values", target="labels"))


def _build_describer(recipe: ModelRecipe) -> Stage:
    model = _start(DegradationExtractorForDescription, recipe)
    config = model.config
    # An extractor that is trained along may begin at random.
    if recipe.extractor is not None or (recipe.init_from is None and config.freeze_extractor):
        folder = _find_extractor(recipe)
        model.extractor = DegradationExtractorModel.from_pretrained(folder, config=config, dtype=torch.float32)
    model.extractor.reparameterize()  # one convolution is faster than its branches
    model.config.is_merged = True
    model.freeze_parts()
    return Stage(model, _severity_as_labels, score_descriptions)


def _pictures(batch: Batch) -> Batch:
    return {"pixel_values": batch["pixel_values"], "labels": batch["labels"]}


def _pictures_and_severity(batch: Batch) -> Batch:
    return _pictures(batch) | {"severity": batch["severity"]}


def _pictures_and_classes(batch: Batch) -> Batch:
    """The class of a patch with several degradations is that of the most severe."""
    return _pictures(batch) | {"class_labels": batch["severity"].argmax(-1)}


def _severity_as_labels(batch: Batch) -> Batch:
    return {"pixel_values": batch["pixel_values"], "labels": batch["severity"]}


def _start(build: type[PreTrainedModel], recipe: ModelRecipe) -> PreTrainedModel:
    folder, config = recipe.init_from, _config_of(build, recipe)
    if folder is None:
        return build(config)
    model, report = build.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)
    if missing := report["missing_keys"]:
        # What overrides add is missing for good reason, and starts as in a new model.
        with torch.device("meta"):
            expected = build(_config_of(build, replace(recipe, overrides={}))).state_dict().keys()
        if absent := sorted(expected & set(missing)):
            raise ValueError(
                f"`model.init_from` must hold a {build.__name__}, got {folder!r} without {absent[0]}; "
                "name a folder that this stage left"
            )
    return model


def _config_of(build: type[PreTrainedModel], recipe: ModelRecipe) -> PreTrainedConfig:
    config = read_config(recipe)
    return config if build is DPMambaIRModel else config.extractor_config


def read_config(recipe: ModelRecipe) -> DPMambaIRConfig:
    """Read the configuration that a recipe's model is built with, its overrides applied.

    Args:
        recipe: the section `model`.

    Raises:
        FileNotFoundError: the file or folder that it comes from is missing.
        ValueError: an override is no field, or a value breaks its field's rule.
    """
    path = _find_config(recipe)
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {content!r}; name a model's configuration")
    if content.get("model_type") == DegradationExtractorConfig.model_type:
        content = {"extractor_config": content}
    content = _apply(content, recipe.overrides, DPMambaIRConfig)
    try:
        return DPMambaIRConfig(**content)
    except StrictDataclassError as error:
        reason = error.__cause__ or error
        raise ValueError(
            f"`model.overrides` must fit the model's configuration, got {recipe.overrides!r}: {reason}"
        ) from error


def _apply(content: dict[str, Any], overrides: dict[str, Any], kind: type[PreTrainedConfig]) -> dict[str, Any]:
    applied = dict(content)
    for name, value in overrides.items():
        if name not in {item.name for item in fields(kind)}:
            raise ValueError(f"`model.overrides` must name fields of {kind.__name__}, got {name!r}; correct it")
        nested = name == "extractor_config" and isinstance(value, dict)
        applied[name] = _apply(content.get(name, {}), value, DegradationExtractorConfig) if nested else value
    return applied


def _find_config(recipe: ModelRecipe) -> Path:
    if recipe.init_from is not None:
        return Path(_find_folder("init_from", recipe.init_from), "config.json")
    if recipe.stage == "describe" and recipe.extractor is not None:
        return Path(_find_extractor(recipe), "config.json")
    if not Path(recipe.config).is_file():
        raise FileNotFoundError(
            f"`model.config` must be an existing JSON file, got {recipe.config!r}; see configuration/model"
        )
    return Path(recipe.config)


def _find_extractor(recipe: ModelRecipe) -> str:
    if recipe.extractor is None:
        raise ValueError(
            "`model.extractor` must be the folder of a trained extractor, got None; "
            "train one (configuration/train/*extractor.json), then give --set model.extractor=DIR"
        )
    return _find_folder("extractor", recipe.extractor)


def _find_folder(name: str, folder: str) -> str:
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"`model.{name}` must be an existing folder, got {folder!r}; give --set model.{name}=DIR"
        )
    return folder


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
