"""What transformers checks of each of its own models, over all of ours: its wheel leaves those tests out."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import infer_auto_device_map
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from modeling_dpmambair import (
    DegradationExtractorForDescription,
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DPMambaIRConfig,
    DPMambaIRModel,
)
from tests.modeling_dpmambair.models import (
    assert_same_weights,
    pictures,
    randomized,
    small_config,
    small_extractor_config,
)

CONFIGS = Path(__file__).parents[2] / "configuration" / "model"
STORED = sorted(path.stem for path in CONFIGS.glob("*.json"))


class Case(NamedTuple):
    """A model class, a small configuration, and the tensor that a call of it is about."""

    model_class: type[PreTrainedModel]
    config: Callable
    call: Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]


def call_plainly(model, degraded, **options):
    if getattr(model.config, "embedding_source", None) == "class_label":
        options["class_labels"] = torch.zeros(len(degraded), dtype=torch.long)
    return model(degraded, **options)


def restore(model, degraded):
    return call_plainly(model, degraded).reconstruction


def rebuild(model, degraded):
    return model(degraded, labels=degraded.flip(-1)).reconstruction


CASES = {
    "restorer": Case(DPMambaIRModel, lambda: small_config(has_description=True), restore),
    "class labels": Case(DPMambaIRModel, lambda: small_config(embedding_source="class_label"), restore),
    "two directions": Case(DPMambaIRModel, lambda: small_config(scan_directions=2), restore),
    "concatenation": Case(DPMambaIRModel, lambda: small_config(prompts=[], insertion="concatenation"), restore),
    "attention": Case(DPMambaIRModel, lambda: small_config(prompts=[], insertion="attention"), restore),
    "extractor": Case(
        DegradationExtractorModel, small_extractor_config, lambda model, x: model(x).degradation_embedding
    ),
    "merged extractor": Case(
        DegradationExtractorModel,
        lambda: small_extractor_config(is_merged=True),
        lambda model, x: model(x).degradation_embedding,
    ),
    "pre-training": Case(
        DegradationExtractorForPreTraining,
        lambda: small_extractor_config(has_noise_channel=False, lpips_weight=0.0),
        rebuild,
    ),
    "description": Case(
        DegradationExtractorForDescription, small_extractor_config, lambda model, x: model(x).severity
    ),
}  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# One of each class, and the merged extractor: the restorers' variants differ in what the network computes alone.
VARIANTS = {"class labels", "two directions", "concatenation", "attention"}
CLASSES = {name: case for name, case in CASES.items() if name not in VARIANTS}
every_class = pytest.mark.parametrize("case", CLASSES.values(), ids=CLASSES.keys())


def build(case):
    return randomized(case.model_class(case.config()))


@torch.no_grad()
def run(case, model, degraded):
    return case.call(model, degraded)


# Calls


@every_class
def test_same_call_gives_the_same_bits(case):
    model, degraded = build(case), pictures()
    result = run(case, model, degraded)
    assert result.isfinite().all()
    assert torch.equal(run(case, model, degraded), result)
    assert not torch.equal(run(case, model, degraded.flip(0)), result)


@every_case
def test_batch_gives_what_its_pictures_give_alone(case):
    model, degraded = build(case), pictures(3)
    singles = torch.cat([run(case, model, each[None]) for each in degraded])
    torch.testing.assert_close(run(case, model, degraded), singles, rtol=1e-4, atol=1e-5)


@every_class
def test_arguments_are_not_changed(case):
    model, degraded = build(case), pictures()
    before = degraded.clone()
    run(case, model, degraded)
    assert torch.equal(degraded, before)


@every_class
def test_tuple_and_dictionary_hold_the_same(case):
    model, degraded = build(case), pictures()
    with torch.no_grad():
        output, values = (call_plainly(model, degraded, return_dict=each) for each in (None, False))
        for config in (model.config, *filter(None, [getattr(model.config, "extractor_config", None)])):
            config.return_dict = False
        assert list(call_plainly(model, degraded, return_dict=True)) == list(output)
        configured = call_plainly(model, degraded)
    assert type(values) is type(configured) is tuple
    for each in (values, configured):
        assert all(map(torch.equal, each, output.to_tuple()))
    assert all(torch.equal(output[name], getattr(output, name)) for name in output)


@every_class
def test_hidden_states_are_given_where_the_argument_or_else_the_configuration_asks(case):
    model, degraded = build(case), pictures()
    # Three encoder stages, latent, three decoder stages, refinement; or the extractor's four.
    count = 8 if case.model_class is DPMambaIRModel else 4
    with torch.no_grad():
        assert call_plainly(model, degraded).hidden_states is None
        expected = call_plainly(model, degraded, output_hidden_states=True).hidden_states
        model.config.output_hidden_states = True
        features = call_plainly(model, degraded).hidden_states
        assert call_plainly(model, degraded, output_hidden_states=False).hidden_states is None
    assert len(features) == len(expected) == count
    assert all(map(torch.equal, features, expected))
    assert type(features) is tuple


@pytest.mark.parametrize("name", ["restorer", "extractor", "pre-training"])
def test_gradients_reach_every_hidden_state(name):
    output = build(CASES[name])(pictures(), output_hidden_states=True)
    for each in output.hidden_states:
        each.retain_grad()
    result = output.degradation_embedding if output.reconstruction is None else output.reconstruction
    result.sum().backward()
    assert all(each.grad.abs().max() > 0 for each in output.hidden_states)


# Training


@every_class
def test_four_steps_train_every_trainable_parameter(case):
    model, degraded = build(case).train(), pictures()
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    before = {name: each.detach().clone() for name, each in trainable.items()}
    optimizer = torch.optim.Adam(trainable.values(), lr=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        case.call(model, degraded).square().mean().backward()
        missing = [name for name, each in trainable.items() if each.grad is None or not each.grad.isfinite().all()]
        assert not missing
        optimizer.step()
    assert [name for name, each in trainable.items() if torch.equal(each, before[name])] == []


@every_case
def test_checkpointing_keeps_every_gradient_or_is_refused(case):
    model, degraded = build(case).train(), pictures()
    if not model.supports_gradient_checkpointing:
        with pytest.raises(ValueError, match="does not support activation checkpointing"):
            model.activation_checkpointing_enable()
        return
    checkpointed = copy.deepcopy(model)
    checkpointed.activation_checkpointing_enable()
    assert checkpointed.is_activation_checkpointing
    for each in (model, checkpointed):
        case.call(each, degraded).square().mean().backward()
    for (name, ours), theirs in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-5, atol=1e-7)
    checkpointed.activation_checkpointing_disable()
    assert not checkpointed.is_activation_checkpointing


# Files


@every_class
def test_saved_model_reloads_bit_equal(case, tmp_path):
    model, degraded = build(case), pictures()
    model.save_pretrained(tmp_path)
    reloaded, info = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert not reloaded.training
    assert_same_weights(reloaded, model)
    frozen, expected = (
        {name for name, parameter in each.named_parameters() if not parameter.requires_grad}
        for each in (reloaded, model)
    )
    assert frozen == expected
    assert torch.equal(run(case, reloaded, degraded), run(case, model, degraded))
    assert type(AutoModel.from_pretrained(tmp_path)) in {case.model_class, DegradationExtractorModel}
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)


@every_class
def test_sharded_weights_reload_bit_equal(case, tmp_path):
    model = build(case)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = {tmp_path / file for file in index["weight_map"].values()}
    assert len(shards) > 1
    assert shards == set(tmp_path.glob("*.safetensors"))
    assert sum(len(load_file(shard)) for shard in shards) == len(model.state_dict())
    assert_same_weights(case.model_class.from_pretrained(tmp_path), model)


@every_case
def test_model_built_without_storage_has_every_parameter_and_buffer_set(case):
    with torch.device("meta"):
        model = case.model_class(case.config())
    model = model.to_empty(device="cpu")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for each in tensors.values():
        each.data.fill_(torch.nan)
        each._is_hf_initialized = False
    for module in model.modules():
        module._is_hf_initialized = False
    model.initialize_weights()
    assert [name for name, each in tensors.items() if not each.isfinite().all()] == []
    check_starts(model, tensors)


def check_starts(model, tensors):
    """Check the starts that the documentation of `_init_weights` fixes."""
    for name, value in tensors.items():
        owner, leaf = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        zero = type(owner).__name__ in {"ZeroStartLinear", "ZeroStartConv2d", "HighFrequencyEnhancement"}
        zero |= leaf == "bias" and not name.endswith("dt_proj.bias")
        if leaf == "A_log":
            assert torch.equal(value, torch.arange(1.0, value.shape[1] + 1).log().expand_as(value)), name
        elif leaf == "D" or (leaf == "weight" and isinstance(owner, nn.LayerNorm)):
            assert (value == 1).all(), name
        else:
            assert (value == 0).all() == zero, name


# Precision and placement


@every_class
@pytest.mark.parametrize("way", ["loaded", "cast"])
def test_half_precision_model_comes_close_to_float32(case, tmp_path, way):
    model, degraded = build(case), pictures()
    if way == "loaded":
        model.save_pretrained(tmp_path)
        half = case.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
        kept = {name for name, each in half.named_parameters() if each.dtype == torch.float32}
        assert kept == {name for name, _ in half.named_parameters() if name.endswith((".A_log", ".D"))}
    else:
        half = copy.deepcopy(model).to(torch.bfloat16)
    expected, result = run(case, model, degraded), run(case, half, degraded)
    assert case.call is not restore or result.dtype == torch.float32  # the picture itself is never rounded
    scale = (expected - degraded).std() if case.call in (restore, rebuild) else expected.std()
    assert (result.float() - expected).std() <= 0.1 * scale


@every_class
def test_automatic_placement_gives_the_same_bits(case, tmp_path):
    model, degraded = build(case), pictures()
    model.save_pretrained(tmp_path)
    placed = case.model_class.from_pretrained(tmp_path, device_map="auto")
    assert {each.device for each in placed.parameters()} == {torch.device("cpu")}
    assert torch.equal(run(case, placed, degraded), run(case, model, degraded))


def test_placement_splits_no_block_and_not_the_extractor():
    model = DPMambaIRModel(small_config(encoder_depths=[2, 2, 2], has_description=True))
    whole = [name for name, module in model.named_modules() if type(module).__name__ in model._no_split_modules]
    total = sum(each.numel() * each.element_size() for each in model.parameters())
    space = {"cpu": total // 2, "disk": 10 * total}
    places = infer_auto_device_map(model, space, no_split_module_classes=list(model._no_split_modules))
    assert len(set(places.values())) == 2
    assert "extractor" in whole
    assert [name for name in places if any(name.startswith(f"{each}.") for each in whole)] == []


def test_weights_offloaded_to_disk_are_an_error_and_no_wrong_picture(tmp_path):
    randomized(DPMambaIRModel(small_config())).save_pretrained(tmp_path)
    places = {"extractor": "cpu", "network": "disk"}
    offloaded = DPMambaIRModel.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offload")
    with torch.no_grad(), pytest.raises(ValueError, match="`dt_bias` must be on cpu like `u`, got meta; place the wh"):
        offloaded(pictures())


# Stored configurations


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name != "tiny" else []) for name in STORED]
)
def test_stored_configuration_runs_trains_and_reloads_bit_equal(name, tmp_path):
    model, degraded = (
        randomized(DPMambaIRModel(DPMambaIRConfig.from_json_file(CONFIGS / f"{name}.json")), 0.01),
        pictures(),
    )
    severity = torch.rand(len(degraded), len(model.config.extractor_config.degradations))
    model(degraded, labels=degraded.flip(0), severity=severity).loss.backward()
    trainable = [each for each in model.parameters() if each.requires_grad]
    assert all(each.grad is not None and each.grad.isfinite().all() for each in trainable)
    model.save_pretrained(tmp_path)
    reloaded = DPMambaIRModel.from_pretrained(tmp_path)
    assert_same_weights(reloaded, model)
    with torch.no_grad():
        assert torch.equal(reloaded(degraded).reconstruction, model(degraded).reconstruction)
