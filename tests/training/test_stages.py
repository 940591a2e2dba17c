import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from modeling_dpmambair import DegradationExtractorForDescription, DPMambaIRModel
from tests.modeling_dpmambair.models import pictures, small_model
from training.recipe import ModelRecipe
from training.stages import build_stage, build_untrained, save_trained


def restorer(place: SimpleNamespace, **settings: object) -> ModelRecipe:
    return ModelRecipe(**{"config": str(place.model), "extractor": str(place.extractor)} | settings)


def test_overrides_change_fields_of_the_model_and_of_its_extractor(place: SimpleNamespace) -> None:
    overrides = {"prompts": ["B"], "extractor_config": {"embedding_dim": 12}}
    config = build_untrained(restorer(place, overrides=overrides)).config
    extractor = config.extractor_config
    assert (config.prompts, extractor.embedding_dim, extractor.channels) == (["B"], 12, [4, 4, 6, 8])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"overrides": {"prompt": []}}, "`model.overrides` must name fields of DPMambaIRConfig, got 'prompt'"),
        (
            {"overrides": {"extractor_config": {"width": 1}}},
            "fields of DegradationExtractorConfig, got 'width'",
        ),
        ({"overrides": {"dim": 3}}, "`model.overrides` must fit the model's configuration, got .*`dim` must be even"),
        ({"overrides": {"embedding_source": "given"}}, "`embedding_source` must be 'extractor' or .* got 'given'"),
        ({"init_from": "absent"}, "`model.init_from` must be an existing folder, got 'absent'"),
        ({"stage": "describe", "extractor": None}, "`model.extractor` must be the folder of a trained extractor, got"),
    ],
)
def test_what_cannot_be_built_is_named(place: SimpleNamespace, settings: dict[str, object], text: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        build_stage(restorer(place, **settings))


def test_starting_from_another_stage_is_refused(place: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="`model.init_from` must hold a DPMambaIRModel, got .* without network"):
        build_stage(restorer(place, init_from=str(place.extractor), extractor=None))


def test_restorer_grows_by_blocks_that_change_nothing_at_first(place: SimpleNamespace, tmp_path: Path) -> None:
    trained = small_model(zero_start="branches")
    trained.save_pretrained(tmp_path)
    overrides = {"encoder_depths": [*trained.config.encoder_depths[:-1], trained.config.encoder_depths[-1] + 1]}
    grown = build_stage(restorer(place, init_from=str(tmp_path), extractor=None, overrides=overrides)).model.eval()
    added = grown.state_dict().keys() - trained.state_dict().keys()
    assert added
    degraded = pictures()
    with torch.no_grad():
        assert torch.equal(grown(degraded).reconstruction, trained(degraded).reconstruction)
    grown.train()(degraded, labels=torch.rand_like(degraded)).loss.backward()
    assert any(parameter.grad.any() for name, parameter in grown.named_parameters() if name in added)


def test_grown_restorer_still_wants_all_that_was_there(place: SimpleNamespace, tmp_path: Path) -> None:
    trained = small_model(zero_start="branches")
    state = trained.state_dict()
    lost = next(name for name in state if name.startswith("network.") and name.endswith("weight"))
    trained.save_pretrained(tmp_path, state_dict={name: each for name, each in state.items() if name != lost})
    overrides = {"latent_depth": trained.config.latent_depth + 1}
    with pytest.raises(ValueError, match=f"`model.init_from` must hold a DPMambaIRModel, got .* without {lost}"):
        build_stage(restorer(place, init_from=str(tmp_path), extractor=None, overrides=overrides))


def test_class_labels_are_the_most_severe_kind(place: SimpleNamespace) -> None:
    stage = build_stage(restorer(place, overrides={"embedding_source": "class_label"}, extractor=None))
    batch = {"pixel_values": torch.rand(2, 3, 16, 16), "labels": torch.rand(2, 3, 16, 16)}
    severity = torch.tensor([[0, 0.2, 0, 0, 0.7, 0, 0], [0, 0, torch.nan, 0, 0, 0, 0]])
    inputs = stage.inputs(batch | {"severity": severity})
    assert inputs["class_labels"].tolist() == [4, 2]
    assert stage.model(**inputs).loss > 0


def test_extractor_that_describes_takes_the_severity_and_leaves_its_head_to_the_next_stage(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    recipe = restorer(
        place,
        stage="extractor",
        overrides={"extractor_config": {"description_weight": 0.1}},
        lpips_backbone=str(place.backbone),
    )
    stage = build_stage(recipe)
    batch = {name: torch.rand(2, 3, 32, 32) for name in ("pixel_values", "labels")} | {"severity": torch.rand(2, 7)}
    inputs = stage.inputs(batch)
    assert torch.equal(inputs["severity"], batch["severity"])
    with torch.no_grad():
        output = stage.model(**inputs)
    told = output.presence.argmax(-1)
    for wrong, accuracy in ([0, 0], 1), ([0, 1], 0.5), ([1, 1], 0):
        truth = torch.nn.functional.one_hot((told + torch.tensor(wrong)) % 7, 7) * 0.5
        assert stage.score({"rain": output}, {"rain": batch | {"severity": truth}}).numbers["accuracy"] == accuracy
    save_trained(stage.model, tmp_path)
    describer = build_stage(restorer(place, stage="describe", init_from=str(tmp_path), extractor=None)).model
    assert torch.equal(describer.description_head.hidden.weight, stage.model.description_head.hidden.weight)


def test_description_trains_its_head_alone_on_the_merged_extractor(place: SimpleNamespace, tmp_path: Path) -> None:
    stage = build_stage(restorer(place, stage="describe"))
    trained = {name for name, parameter in stage.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in stage.model.named_parameters() if name.startswith("description_head.")}
    save_trained(stage.model, tmp_path)
    assert DegradationExtractorForDescription.from_pretrained(tmp_path).config.is_merged


def test_description_that_trains_its_extractor_may_begin_at_random(place: SimpleNamespace) -> None:
    overrides = {"extractor_config": {"freeze_extractor": False}}
    stage = build_stage(restorer(place, stage="describe", extractor=None, overrides=overrides))
    assert all(parameter.requires_grad for parameter in stage.model.parameters())


def test_restorer_that_keeps_describing_trains_extractor_and_head_with_the_network(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    save_trained(build_stage(restorer(place, stage="describe")).model, tmp_path)
    overrides = {"has_description": True, "freeze_extractor": False, "description_weight": 0.1}
    stage = build_stage(restorer(place, extractor=str(tmp_path), overrides=overrides))
    assert all(parameter.requires_grad for parameter in stage.model.parameters())
    batch = {name: torch.rand(2, 3, 16, 16) for name in ("pixel_values", "labels")} | {"severity": torch.rand(2, 7)}
    stage.model(**stage.inputs(batch)).loss.backward()
    assert stage.model.description_head.hidden.weight.grad.any()


def test_weights_start_in_float32_whatever_was_saved(place: SimpleNamespace, tmp_path: Path) -> None:
    build_stage(restorer(place)).model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    model = build_stage(restorer(place, init_from=str(tmp_path), extractor=None)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert isinstance(model, DPMambaIRModel)
    assert not any(parameter.requires_grad for parameter in model.extractor.parameters())


def test_extractor_without_a_perceptual_loss_needs_no_backbone(place: SimpleNamespace) -> None:
    overrides = {"extractor_config": {"lpips_weight": 0.0}}
    recipe = restorer(place, stage="extractor", extractor=None, overrides=overrides, lpips_backbone="nowhere")
    stage = build_stage(recipe)
    patches = torch.rand(1, 3, 32, 32)
    assert stage.model(patches, patches).loss > 0
