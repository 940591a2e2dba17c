import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForImageToImage

from modeling_dpmambair import (
    DegradationExtractorForDescription,
    DegradationExtractorModel,
    DPMambaIRModel,
    scan_backend,
)
from modeling_dpmambair.block_dpmambair import DPMambaIRBlock
from modeling_dpmambair.modeling_degradation_extractor import describe_loss
from modeling_dpmambair.modeling_dpmambair import pad_to_multiple
from tests.modeling_dpmambair.models import (
    assert_same_weights,
    pictures,
    randomized,
    small_config,
    small_extractor_config,
    small_model,
)

LIGHT = {
    "has_film": True, "first_mixer_level": 1, "has_linear_resampling": True, "has_summed_skips": True,
    "zero_start": "branches", "refinement_depth": 0, "has_description": True, "reads_description": True, "stem_dim": 5,
}  # fmt: skip
SWITCHES = {
    "base": {},
    "no prompts, no HEB": {"prompts": [], "has_heb": False},
    "concatenation": {"prompts": [], "insertion": "concatenation"},
    "attention": {"prompts": [], "insertion": "attention"},
    "class labels": {"embedding_source": "class_label"},
    "given embedding": {"embedding_source": "given"},
    "two directions": {"scan_directions": 2, "prompts": ["delta", "B"]},
    "zero-order hold": {"discretization": "zoh"},
    "fine-tuned extractor": {"freeze_extractor": False},
    "merged extractor": {"extractor": {"is_merged": True}},
    "no refinement": {"refinement_depth": 0},
    "wide": {"expand": 2, "ffn_ratio": 1.5, "d_conv": 5},
    "light": LIGHT,
    "modulated features": {"has_film": True},
    "summed skips": {"has_summed_skips": True},
    "linear resampling": {"has_linear_resampling": True},
}
every_switch = pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())


def embedding_arguments(model, batch=2):
    """What the model's source of embeddings asks of the caller."""
    source = model.config.embedding_source
    if source == "class_label":
        return {"class_labels": torch.arange(batch)}
    return {"degradation_embedding": torch.randn(batch, 8)} if source == "given" else {}


# Shapes and values


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 4), (8, 8), (11, 18), (9, 25)])
def test_any_size_comes_back(size):
    degraded = pictures(2, *size)
    output = small_model()(degraded, labels=degraded)
    assert output.reconstruction.shape == degraded.shape
    assert output.reconstruction.isfinite().all()
    assert output.degradation_embedding.shape == (2, 8)
    assert output.loss.isfinite()


@every_switch
def test_untrained_model_returns_its_input(changes):
    model, degraded = DPMambaIRModel(small_config(**{**changes, "zero_start": "output"})), pictures()
    assert torch.equal(model(degraded, **embedding_arguments(model)).reconstruction, degraded)


def test_correction_is_added_to_the_picture_and_strength_scales_it():
    model, degraded = small_model(), pictures()
    restored = model(degraded).reconstruction
    assert (restored - degraded).abs().max() > 0.01
    assert torch.equal(model(degraded, strength=0.0).reconstruction, degraded)
    assert torch.equal(model(degraded, strength=1.0).reconstruction, restored)
    torch.testing.assert_close(model(degraded, strength=1.5).reconstruction, degraded + 1.5 * (restored - degraded))
    mask = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    by_picture = model(degraded, strength=mask).reconstruction
    assert torch.equal(by_picture, torch.stack([degraded[0], restored[1]]))


def test_same_picture_gives_the_same_bits_whatever_its_memory_format():
    model, degraded = small_model(), pictures()
    expected = model(degraded).reconstruction
    assert torch.equal(model(degraded).reconstruction, expected)
    channels_last = degraded.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(channels_last).reconstruction, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "mode"),
    [
        ((11, 18), "reflect"),
        ((3, 18), "edge"),
        ((4, 18), "edge"),
        ((5, 18), "reflect"),
        ((9, 4), "edge"),
        ((8, 16), "reflect"),
    ],
)
def test_padding_is_numpys(size, mode):
    image = pictures(1, *size)
    margins = ((0, 0), (0, 0), (0, -size[0] % 8), (0, -size[1] % 8))
    np.testing.assert_array_equal(pad_to_multiple(image, 8), np.pad(image, margins, mode=mode))


def test_hidden_states_are_the_features_after_each_stage():
    model, degraded = small_model(), pictures(2, 11, 18)
    output = model(degraded, output_hidden_states=True)
    assert [tuple(each.shape) for each in output.hidden_states] == [
        (2, 16, 24, 4), (2, 8, 12, 8), (2, 4, 6, 16), (2, 2, 3, 32), (2, 4, 6, 16), (2, 8, 12, 8), (2, 16, 24, 8),
        (2, 16, 24, 8),
    ]  # fmt: skip
    assert model(degraded).hidden_states is None
    correction = model.network.conv_out(output.hidden_states[-1])[:, :11, :18].permute(0, 3, 1, 2)
    torch.testing.assert_close(output.reconstruction, degraded + correction)


# Embedding


def test_given_embedding_replaces_the_extractors():
    model, degraded = small_model(), pictures()
    output = model(degraded)
    embedding = model.extractor(degraded).degradation_embedding
    assert torch.equal(output.degradation_embedding, embedding)
    assert torch.equal(model(degraded, degradation_embedding=embedding).reconstruction, output.reconstruction)
    other = model(degraded, degradation_embedding=embedding.flip(0))
    assert not torch.equal(other.reconstruction, output.reconstruction)
    assert torch.equal(other.degradation_embedding, embedding.flip(0))


@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_one_embedding_serves_all_tiles_of_a_batch(backend):
    model, tiles, embedding = small_model(), pictures(3), torch.randn(1, 8)
    with scan_backend(backend):
        expected = model(tiles, degradation_embedding=embedding.expand(3, -1)).reconstruction
        torch.testing.assert_close(model(tiles, degradation_embedding=embedding).reconstruction, expected)


def test_class_labels_choose_a_learned_embedding():
    model, degraded = small_model(embedding_source="class_label"), pictures()
    labels = torch.tensor([2, 0])
    output = model(degraded, class_labels=labels)
    assert torch.equal(output.degradation_embedding, model.class_embedding.weight[labels])
    assert not torch.equal(model(degraded, class_labels=labels.flip(0)).reconstruction, output.reconstruction)


@pytest.mark.parametrize(("source", "argument"), [("class_label", "class_labels"), ("given", "degradation_embedding")])
def test_missing_source_of_the_embedding_is_an_error(source, argument):
    text = f"`{argument}` must be given with embedding_source '{source}', got None; pass one a picture"
    with pytest.raises(ValueError, match=text):
        small_model(embedding_source=source)(pictures())


def test_prompts_switched_off_leave_the_picture_blind_to_the_embedding():
    model, degraded = small_model(prompts=[]), pictures()
    one, other = (model(degraded, degradation_embedding=torch.randn(2, 8)).reconstruction for _ in range(2))
    assert torch.equal(one, other)


def test_modulated_features_hear_the_embedding_without_prompts():
    model, degraded = small_model(prompts=[], has_film=True), pictures()
    one, other = (model(degraded, degradation_embedding=torch.randn(2, 8)).reconstruction for _ in range(2))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(("level", "count"), [(0, 8), (1, 5), (2, 3), (3, 1)])
def test_blocks_finer_than_the_first_mixers_level_have_none(level, count):
    blocks = [each for each in small_model(first_mixer_level=level).modules() if isinstance(each, DPMambaIRBlock)]
    assert len(blocks) == 8
    assert sum(block.mixer is not None for block in blocks) == count


def test_zero_start_of_branches_leaves_features_as_they_are():
    network = DPMambaIRModel(small_config(zero_start="branches", has_film=True)).network
    x = torch.randn(2, 8, 8, 4)
    assert torch.equal(network.encoder[0](x, torch.randn(2, 8)), x)


# Loss and gradients


def test_loss_is_equation_11_computed_in_numpy():
    model = small_model(l1_weight=0.7, l2_weight=0.4, fft_weight=0.02)
    degraded, clean = pictures(2, 9, 12), pictures(2, 9, 12)
    output = model(degraded, labels=clean)
    error = (output.reconstruction - clean).detach().double().numpy()
    spectrum = np.fft.rfft2(error)
    by_spectrum = (np.abs(spectrum.real).mean() + np.abs(spectrum.imag).mean()) / 2
    expected = 0.7 * np.abs(error).mean() + 0.4 * (error**2).mean() + 0.02 * by_spectrum
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_logarithm_of_each_pictures_error_joins_the_loss():
    degraded, clean = pictures(2, 9, 12), pictures(2, 9, 12)
    output = small_model(l1_weight=0.0, l2_weight=0.0, fft_weight=0.0, log_weight=0.3)(degraded, labels=clean)
    error = (output.reconstruction - clean).detach().double().numpy()
    expected = 0.3 * np.log((error**2).mean((1, 2, 3)) + 1e-4).mean()
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_tone_is_judged_apart_from_detail():
    model = small_model(l1_weight=0.7, l2_weight=0.4, fft_weight=0.0, log_weight=0.1, tone_weight=0.2)
    degraded, clean = pictures(2, 64, 40), pictures(2, 64, 40)
    output = model(degraded, labels=clean)
    error = (output.reconstruction - clean).detach().double().numpy()
    squares = [error[:, :, top : top + 32, left : left + 32] for top in (0, 32) for left in (0, 32)]
    tones = [np.broadcast_to(one.mean((2, 3), keepdims=True), one.shape) for one in squares]
    details = [one - tone for one, tone in zip(squares, tones, strict=True)]
    tone, detail = (sum(np.abs(one).sum() for one in parts) / error.size for parts in (tones, details))
    squared = sum((one**2).sum((1, 2, 3)) for one in details) / error[0].size
    expected = 0.2 * tone + 0.7 * detail + 0.4 * squared.mean() + 0.1 * np.log(squared + 1e-4).mean()
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_loss_of_a_perfect_restoration_is_zero():
    degraded = pictures()
    assert DPMambaIRModel(small_config())(degraded, labels=degraded).loss.item() == 0


@every_switch
def test_every_trainable_parameter_receives_a_gradient_and_training_helps(changes):
    model = small_model(**changes).train()
    # One picture a class, and two pixels or more at the lowest resolution: one has no past and no mean beside it.
    degraded, clean, source = pictures(3, 16, 16), pictures(3, 16, 16), embedding_arguments(model, 3)
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.Adam(trainable.values(), lr=3e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(degraded, labels=clean, **source).loss
        loss.backward()
        losses.append(loss.item())
        assert [name for name, each in trainable.items() if each.grad is None or not each.grad.any()] == []
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("reload", [False, True], ids=["built", "reloaded"])
@pytest.mark.parametrize("is_frozen", [True, False])
def test_extractor_is_trained_only_when_it_is_not_frozen(tmp_path, is_frozen, reload):
    model = small_model(freeze_extractor=is_frozen)
    if reload:
        model.save_pretrained(tmp_path)
        model = DPMambaIRModel.from_pretrained(tmp_path)
    model(pictures(), labels=pictures()).loss.backward()
    assert {each.requires_grad for each in model.extractor.parameters()} == {not is_frozen}
    assert {each.grad is None for each in model.extractor.parameters()} == {is_frozen}
    assert {each.requires_grad for each in model.network.parameters()} == {True}


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_head_that_describes_trains_with_the_restorer_only_if_its_loss_has_a_weight(weight):
    model = small_model(has_description=True, freeze_extractor=False, description_weight=weight)
    degraded, clean, severity = pictures(2), pictures(2), torch.rand(2, 3)
    output = model(degraded, labels=clean, severity=severity)
    described = describe_loss(*model.description_head(output.degradation_embedding), severity)
    restored = model._loss(output.reconstruction, clean)
    torch.testing.assert_close(output.loss, restored + weight * described)
    assert {each.requires_grad for each in model.description_head.parameters()} == {weight > 0}
    output.loss.backward()
    assert {each.grad is not None for each in model.description_head.parameters()} == {weight > 0}


def test_weighted_description_without_true_severities_is_an_error():
    model = small_model(has_description=True, description_weight=0.1)
    with pytest.raises(ValueError, match="`severity` must be given while `description_weight` is positive, got None"):
        model(pictures(), labels=pictures())


def test_activation_checkpointing_changes_no_gradient():
    model, degraded, clean = small_model().train(), pictures(), pictures()
    trainable = [each for each in model.parameters() if each.requires_grad]
    expected = torch.autograd.grad(model(degraded, labels=clean).loss, trainable)
    model.activation_checkpointing_enable()
    assert all(stage.blocks[0].gradient_checkpointing for stage in model.network.encoder)
    gradients = torch.autograd.grad(model(degraded, labels=clean).loss, trainable)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected, strict=True))


# Backends and precision


@pytest.mark.parametrize("changes", [{}, {"scan_directions": 2, "discretization": "zoh"}], ids=str)
def test_network_agrees_between_the_implementations_of_the_scan(changes):
    model, degraded, clean = small_model(**changes), pictures(2, 8, 16), pictures(2, 8, 16)
    trainable = [each for each in model.parameters() if each.requires_grad]
    results = {}
    for backend in ("numba", "chunked", "loop"):
        with scan_backend(backend):
            output = model(degraded, labels=clean)
            results[backend] = output.reconstruction, *torch.autograd.grad(output.loss, trainable)
    for backend in ("numba", "chunked"):
        for value, expected in zip(results[backend], results["loop"], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_bfloat16_autocast_stays_close_to_float32():
    model, degraded, clean = small_model(), pictures(2, 16, 24), pictures(2, 16, 24)
    expected = model(degraded, labels=clean)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(degraded, labels=clean, output_hidden_states=True)
    assert output.reconstruction.dtype == output.loss.dtype == torch.float32
    # Rounding the features is half precision's price; the correction itself is not rounded again.
    unrounded = model.network.conv_out(output.hidden_states[-1].float()).permute(0, 3, 1, 2)
    torch.testing.assert_close(output.reconstruction, degraded + unrounded, rtol=1e-5, atol=1e-6)
    correction, exact = output.reconstruction - degraded, expected.reconstruction - degraded
    assert ((correction - exact).square().mean() / exact.square().mean()).sqrt() < 0.03
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=0.01)
    output.loss.backward()
    assert all(each.grad.isfinite().all() for each in model.network.parameters())


def test_decays_and_skips_are_float32_where_the_default_is_not():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = small_model()
    finally:
        torch.set_default_dtype(before)
    kept = {name for name, each in model.named_parameters() if each.dtype == torch.float32}
    assert kept == {name for name, _ in model.named_parameters() if name.endswith((".A_log", ".D"))}


def test_half_precision_model_keeps_decays_and_skips_in_float32(tmp_path):
    model, degraded = small_model(), pictures()
    model.save_pretrained(tmp_path)
    half = DPMambaIRModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    kept = {name for name, each in half.named_parameters() if each.dtype == torch.float32}
    assert kept == {name for name, _ in model.named_parameters() if name.endswith((".A_log", ".D"))}
    assert {each.dtype for name, each in half.named_parameters() if name not in kept} == {torch.bfloat16}
    output = half(degraded.bfloat16())
    assert output.reconstruction.dtype == torch.bfloat16
    torch.testing.assert_close(output.reconstruction.float(), model(degraded).reconstruction, rtol=0.1, atol=0.1)


# Saving and loading


# `test_common.py` reloads one of each class.
@pytest.mark.parametrize("name", ["light", "merged extractor", "given embedding", "wide"])
def test_saved_model_reloads_bit_equal(name, tmp_path):
    model, degraded = small_model(**SWITCHES[name]), pictures()
    model.save_pretrained(tmp_path)
    again = DPMambaIRModel.from_pretrained(tmp_path)
    assert not again.training
    assert_same_weights(again, model)
    source = embedding_arguments(model)
    torch.testing.assert_close(again(degraded, **source).reconstruction, model(degraded, **source).reconstruction)


def test_auto_classes_find_the_model(tmp_path):
    small_model().save_pretrained(tmp_path)
    for auto in (AutoModel, AutoModelForImageToImage):
        assert type(auto.from_pretrained(tmp_path)) is DPMambaIRModel


def assert_is_the_documented_start(model):
    """Check every parameter of a model against the tables of `_init_weights`."""
    zeros = (
        "conv_out.weight",
        "prompts.delta.out_proj.weight",
        "prompts.B.out_proj.weight",
        "prompts.C.out_proj.weight",
    )
    for name, each in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        if name.endswith("A_log"):
            assert torch.equal(each, torch.arange(1.0, 4.0).log().expand_as(each)), name
        elif name.endswith(".D") or (isinstance(module, nn.LayerNorm) and name.endswith("weight")):
            assert (each == 1).all(), name
        elif name.endswith("dt_proj.bias"):
            steps = nn.functional.softplus(each)
            assert ((steps >= 0.999e-3) & (steps <= 0.1001)).all(), name
        elif name.endswith((*zeros, "bias", "heb.scale")):
            assert not each.any(), name
        else:
            bound = each[0].numel() ** -0.5
            assert bound / 4 < each.abs().max() <= bound, name
            assert len(each.unique()) > 0.99 * each.numel(), name


def test_weights_that_a_checkpoint_lacks_get_their_documented_start(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {"network.conv_in.weight": weights["network.conv_in.weight"]}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    # Built without storage: what nothing sets holds whatever the memory held.
    blocks = [torch.full((1 << 16,), math.nan) for _ in range(20)]
    del blocks
    loaded = DPMambaIRModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.network.conv_in.weight, model.network.conv_in.weight)
    nn.init.uniform_(loaded.network.conv_in.weight, -(27**-0.5), 27**-0.5)
    assert_is_the_documented_start(loaded)


def test_built_model_has_its_documented_start():
    assert_is_the_documented_start(DPMambaIRModel(small_config()))


def test_start_of_the_step_sizes_fills_its_range():
    model = DPMambaIRModel(small_config(dim=32, dt_min=0.01, dt_max=0.5))
    steps = nn.functional.softplus(model.network.latent.blocks[0].mixer.scan.dt_proj.bias)
    assert steps.min().item() == pytest.approx(0.01, rel=0.15)
    assert steps.max().item() == pytest.approx(0.5, rel=0.15)
    assert steps.log().mean().item() == pytest.approx((math.log(0.01) + math.log(0.5)) / 2, abs=0.3)


# Extractor and description from elsewhere


@pytest.mark.parametrize("holder", ["extractor", "restorer"])
def test_extractor_is_taken_and_merged_from_its_folder_or_a_restorers(tmp_path, holder):
    source = small_model()
    (source.extractor if holder == "extractor" else source).save_pretrained(tmp_path / "source")
    model = small_model({"is_merged": True, "channels": [3, 3, 3, 3]})
    model.load_extractor(tmp_path / "source")
    degraded = pictures()
    expected = source.extractor(degraded).degradation_embedding
    torch.testing.assert_close(model(degraded).degradation_embedding, expected, rtol=1e-5, atol=1e-5)
    assert all(stage.branches.is_merged for stage in model.extractor.stages)
    assert not any(each.requires_grad for each in model.extractor.parameters())
    model.save_pretrained(tmp_path / "again")
    again = DPMambaIRModel.from_pretrained(tmp_path / "again")
    assert again.config.extractor_config.channels == [4, 6, 5, 8]
    torch.testing.assert_close(again(degraded).reconstruction, model(degraded).reconstruction)


def test_taken_extractor_keeps_its_branches_and_trains_where_the_model_says_so(tmp_path):
    randomized(DegradationExtractorModel(small_extractor_config())).save_pretrained(tmp_path)
    model = small_model(freeze_extractor=False)
    model.load_extractor(tmp_path)
    assert not any(stage.branches.is_merged for stage in model.extractor.stages)
    assert all(each.requires_grad for each in model.extractor.parameters())


def test_extractor_of_another_width_is_an_error(tmp_path):
    randomized(DegradationExtractorModel(small_extractor_config(embedding_dim=16))).save_pretrained(tmp_path)
    text = f"`embedding_dim` must be 8, as the prompts expect, got 16 in {tmp_path}; train one of that width or change"
    with pytest.raises(ValueError, match=text):
        small_model().load_extractor(tmp_path)


@pytest.mark.parametrize("load", ["load_extractor", "load_description"])
def test_model_without_an_extractor_refuses_one(tmp_path, load):
    text = "`embedding_source` must be 'extractor' here, got 'given'; build the model with it"
    with pytest.raises(ValueError, match=text):
        getattr(small_model(embedding_source="given"), load)(tmp_path)


def test_description_is_taken_and_travels_with_the_model(tmp_path):
    describer = randomized(DegradationExtractorForDescription(small_extractor_config()))
    describer.save_pretrained(tmp_path / "describer")
    describer.extractor.save_pretrained(tmp_path / "extractor")
    model, degraded = small_model(), pictures()
    with pytest.raises(
        ValueError, match="`has_description` must be true to describe, got False; call load_description"
    ):
        model.describe(degraded)
    model.load_extractor(tmp_path / "extractor")
    model.load_description(tmp_path / "describer")
    model.save_pretrained(tmp_path / "restorer")
    expected = describer(degraded)
    for each in (model, DPMambaIRModel.from_pretrained(tmp_path / "restorer")):
        description = each.describe(degraded)
        torch.testing.assert_close(description.presence, expected.presence)
        torch.testing.assert_close(description.severity, expected.severity)


# On a card


@pytest.mark.gpu
@every_switch
def test_card_restores_and_trains_as_the_processor_does(changes):
    model, degraded, clean = small_model(**changes).train(), pictures(2, 24, 40), pictures(2, 24, 40)
    given = embedding_arguments(model)

    def train(device):
        model.to(device).zero_grad()
        placed = {name: each.to(device) for name, each in (given | {"labels": clean}).items()}
        output = model(degraded.to(device), **placed)
        output.loss.backward()
        gradients = {name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None}
        return output.reconstruction.detach().cpu(), gradients

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        (restored, gradients), (expected, exact) = train("cuda"), train("cpu")
    torch.testing.assert_close(restored, expected, rtol=1e-4, atol=1e-5)
    longest = torch.stack([each.norm() for each in exact.values()]).max()
    assert {name for name in exact if (gradients[name] - exact[name]).norm() > 1e-4 * longest} == set()
