import io

import numpy as np
import pytest
import scipy.stats
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.preprocessing import StandardScaler
from torch import nn

from modeling_dpmambair import (
    DegradationExtractorForDescription,
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
)
from modeling_dpmambair.extractor_statistics_dpmambair import (
    GRID,
    RunningNorm,
    find_grid,
    measure_moments,
    measure_profiles,
)
from modeling_dpmambair.modeling_degradation_extractor import describe_loss
from tests.modeling_dpmambair.models import (
    assert_same_weights,
    pictures,
    randomized,
    small_extractor_config,
    small_model,
)

SIZES = [(1, 1), (1, 9), (2, 3), (11, 18), (16, 8)]


def small_extractor(**changes):
    return randomized(DegradationExtractorModel(small_extractor_config(**changes)))


def small_pretraining(**changes):
    model = DegradationExtractorForPreTraining(small_extractor_config(**changes))
    model.attach_perceptual_loss(F.mse_loss)
    return model


def without_gradient(model):
    """Names of the trainable parameters whose gradient is missing, zero throughout or not finite."""
    return [
        name
        for name, each in model.named_parameters()
        if each.requires_grad and (each.grad is None or not each.grad.any() or not each.grad.isfinite().all())
    ]


# Extractor


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_gives_an_embedding_of_the_configured_width(size, is_merged):
    embedding = small_extractor(is_merged=is_merged)(pictures(3, *size)).degradation_embedding
    assert embedding.shape == (3, 8)
    assert embedding.isfinite().all()


def test_embedding_is_a_linear_map_of_each_stages_mean_and_standard_deviation():
    model, stages = small_extractor(), []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: stages.append(output.double().flatten(1, 2)))
    embedding = model(pictures()).degradation_embedding
    assert [stage.shape[1:] for stage in stages] == [(198, 4), (54, 6), (15, 5), (6, 8)]
    statistics = [each for stage in stages for each in (stage.mean(1), stage.std(1, correction=0))]
    expected = F.linear(torch.cat(statistics, -1), model.head.weight.double(), model.head.bias.double())
    torch.testing.assert_close(embedding.double(), expected, rtol=1e-3, atol=1e-3)


def test_running_norm_standardises_by_all_that_it_has_seen():
    norm, seen = RunningNorm(3), 4 * torch.randn(20, 5, 3, dtype=torch.float64) + torch.tensor([0.0, 7.0, -90.0])
    for batch in seen:
        norm(batch.float())
    values = seen.flatten(0, 1).numpy()
    np.testing.assert_allclose(norm.mean, values.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(norm.variance, values.var(0), rtol=1e-3)
    expected = StandardScaler().fit(values).transform(values)
    np.testing.assert_allclose(norm.eval()(seen.flatten(0, 1).float()), expected, atol=1e-2)


def test_running_norm_of_a_frozen_or_evaluated_extractor_stays():
    norm = RunningNorm(3)
    norm(torch.rand(4, 3))
    before = norm.mean.clone()
    with torch.no_grad():
        norm(torch.rand(4, 3))
    norm.eval()(torch.rand(4, 3))
    assert torch.equal(norm.mean, before)


def test_running_norm_follows_statistics_that_move():
    norm = RunningNorm(1)
    for step in range(400):
        norm(torch.full((2, 1), float(step >= 200)) + torch.tensor([[-1.0], [1.0]]))
    assert norm.mean.item() == pytest.approx(1, abs=0.05)
    assert norm.variance.item() == pytest.approx(1, abs=0.05)


def test_moments_are_scipys():
    x = torch.rand(2, 9, 7, 3, dtype=torch.float64) ** 3
    found, values = measure_moments(x, has_fourth=True), x.flatten(1, 2).numpy()
    for order, moment in ((2, found.variance), (4, found.fourth)):
        np.testing.assert_allclose(moment, scipy.stats.moment(values, order, axis=1), rtol=1e-9)


def save_as_jpeg(photograph, quality, offset):
    content = io.BytesIO()
    Image.fromarray(photograph).save(content, "JPEG", quality=quality)
    pixels = np.asarray(Image.open(content))[offset:, offset:] / np.float32(255)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


@pytest.mark.parametrize("offset", [0, 5])
def test_grid_tells_a_codecs_blocks_wherever_they_begin(offset):
    photograph = skimage.data.astronaut()[100:356, 100:356]
    clean = torch.from_numpy(photograph[offset:, offset:] / np.float32(255)).permute(2, 0, 1)[None]
    plain, coded = (
        find_grid(measure_profiles(each).across).view(3, GRID)[0]
        for each in (clean, save_as_jpeg(photograph, 20, offset))
    )
    assert coded[0] > 3 * plain[0]  # one column in eight differs more than the others
    assert coded[1] > 3 * plain[2]
    assert coded[2] < coded[1] / 2


def test_grid_is_the_logarithm_of_each_places_mean_in_descending_order():
    profile = torch.rand(2, 3, 41, dtype=torch.float64)
    means = np.array(
        [[[row[place::GRID].mean() for place in range(GRID)] for row in rows] for rows in profile.numpy()]
    )
    levels = np.log(means + 1e-4)
    expected = np.sort(levels - levels.mean(-1, keepdims=True))[..., ::-1].reshape(2, -1)
    np.testing.assert_allclose(find_grid(profile.float()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_has_fine_statistics(size):
    assert small_extractor(has_fine_statistics=True)(pictures(3, *size)).degradation_embedding.isfinite().all()


def test_fine_statistics_are_read_from_a_trained_folder_as_they_were(tmp_path):
    model = DegradationExtractorModel(small_extractor_config(has_fine_statistics=True)).train()
    for _ in range(3):
        model(pictures())
    model.eval().save_pretrained(tmp_path)
    again = DegradationExtractorModel.from_pretrained(tmp_path)
    assert_same_weights(again, model)
    assert again.norm.count == 3
    restorer = small_model({"has_fine_statistics": True})
    restorer.load_extractor(tmp_path)
    assert torch.equal(restorer.extractor.norm.mean, model.norm.mean)


def test_hidden_layer_completes_the_linear_map():
    linear, completed = small_extractor(), small_extractor(head_dim=5)
    assert not DegradationExtractorModel(small_extractor_config(head_dim=5)).head_out.weight.any()
    completed.load_state_dict(linear.state_dict(), strict=False)
    x = pictures(2, 20, 23)
    with torch.no_grad():
        completed.head_out.weight.zero_()
        expected = linear(x).degradation_embedding
        torch.testing.assert_close(completed(x).degradation_embedding, expected, rtol=0, atol=0)
        # A unit far above zero passes GELU as it is.
        completed.head_hidden.weight.zero_()
        completed.head_hidden.bias.fill_(20.0)
        completed.head_out.weight[:, 2] = torch.arange(float(len(completed.head_out.weight)))
        expected += 20 * torch.arange(float(expected.shape[1]))
        torch.testing.assert_close(completed(x).degradation_embedding, expected, rtol=1e-5, atol=1e-5)


def test_hidden_states_are_the_features_after_each_stage():
    model, degraded = small_extractor(), pictures(2, 11, 18)
    features = [degraded.permute(0, 2, 3, 1)]
    for stage in model.stages:
        features.append(stage(features[-1]))
    hidden_states = model(degraded, output_hidden_states=True).hidden_states
    assert [tuple(each.shape) for each in hidden_states] == [(2, 11, 18, 4), (2, 6, 9, 6), (2, 3, 5, 5), (2, 2, 3, 8)]
    assert all(map(torch.equal, hidden_states, features[1:]))


def test_stage_is_branches_then_a_residual_convolution():
    model, x = small_extractor(), torch.rand(2, 6, 7, 3)
    stage = model.stages[0]
    first = F.gelu(stage.branches(x))
    mixed = F.conv2d(first.permute(0, 3, 1, 2), stage.mix.weight, stage.mix.bias).permute(0, 2, 3, 1)
    torch.testing.assert_close(stage(x), first + F.gelu(mixed), rtol=1e-5, atol=1e-5)
    assert [each.mix.kernel_size for each in model.stages] == [(1, 1), (1, 1), (1, 1), (3, 3)]


def test_embedding_by_windows_is_the_mean_of_theirs():
    whole = small_extractor(has_fine_statistics=True).eval()
    windowed = small_extractor(has_fine_statistics=True, window=16).eval()
    windowed.load_state_dict(whole.state_dict())
    x = pictures(2, 41, 17)  # three windows of 13 x 17; two rows are left out
    with torch.no_grad():
        expected = torch.stack([whole(x[:, :, top : top + 13]).degradation_embedding for top in (0, 13, 26)]).mean(0)
        torch.testing.assert_close(windowed(x).degradation_embedding, expected, rtol=1e-5, atol=1e-5)


def test_picture_of_one_window_is_read_whole():
    x = pictures(2, 20, 23)
    extractor = small_extractor(window=16).eval()
    expected = small_extractor().eval()
    expected.load_state_dict(extractor.state_dict())
    with torch.no_grad():
        found = [each(x).degradation_embedding for each in (extractor, expected)]
    assert torch.equal(*found)


def test_batch_gives_the_embeddings_of_its_pictures():
    model, batch = small_extractor(), pictures(3)
    singles = torch.cat([model(each[None]).degradation_embedding for each in batch])
    torch.testing.assert_close(model(batch).degradation_embedding, singles, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_fine_statistics", [False, True])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_gradients_are_finite_on_constant_pictures(level, has_fine_statistics):
    model = small_extractor(has_fine_statistics=has_fine_statistics)
    for parameter in model.stages.parameters():
        nn.init.zeros_(parameter)  # constant features: the deviation is zero, where its root has no slope
    pixel_values = torch.full((2, 3, 8, 8), level, requires_grad=True)
    model(pixel_values).degradation_embedding.square().sum().backward()
    assert all(each.grad.isfinite().all() for each in [pixel_values, *model.parameters()])


def test_reparameterized_extractor_gives_the_same_embedding_with_fewer_weights():
    model, batch = small_extractor(), pictures()
    before, count = model(batch).degradation_embedding, model.num_parameters()
    model.reparameterize()
    torch.testing.assert_close(model(batch).degradation_embedding, before, rtol=1e-5, atol=1e-5)
    assert model.config.is_merged
    assert model.num_parameters() < count
    assert all(stage.branches.is_merged for stage in model.stages)


@pytest.mark.parametrize("is_merged", [False, True], ids=["branches", "merged"])
def test_either_form_reloads_bit_equal(tmp_path, is_merged):
    model, batch = small_extractor(), pictures()
    if is_merged:
        model.reparameterize()
    model.save_pretrained(tmp_path)
    again = DegradationExtractorModel.from_pretrained(tmp_path)
    assert again.config.is_merged == is_merged
    assert_same_weights(again, model)
    torch.testing.assert_close(again(batch).degradation_embedding, model(batch).degradation_embedding)


def test_half_precision_extractor_runs(tmp_path):
    model = small_extractor()
    model.save_pretrained(tmp_path)
    half = DegradationExtractorModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    batch = pictures()
    expected = model(batch).degradation_embedding
    embedding = half(batch.bfloat16()).degradation_embedding.float()
    torch.testing.assert_close(embedding, expected, rtol=0.05, atol=0.05)


# Pre-training


@pytest.mark.parametrize("size", SIZES)
def test_reconstruction_has_the_pictures_size(size):
    degraded = pictures(2, *size)
    output = small_pretraining()(degraded, labels=degraded)
    assert output.reconstruction.shape == degraded.shape
    assert output.degradation_embedding.shape == (2, 8)
    assert output.loss.shape == ()


def test_without_labels_there_is_an_embedding_only():
    model, degraded = small_pretraining(), pictures()
    output = model(degraded)
    assert output.loss is None
    assert output.reconstruction is None
    assert torch.equal(output.degradation_embedding, model.extractor(degraded).degradation_embedding)


def test_loss_is_l1_and_weighted_lpips_of_the_rebuilt_degraded_picture():
    model, degraded, clean, calls = small_pretraining(lpips_weight=0.25), pictures(), pictures(), []
    model.attach_perceptual_loss(lambda *args: calls.append(args) or torch.tensor(3.0))
    output = model(degraded, labels=clean)
    ((rebuilt, target),) = calls
    assert torch.equal(rebuilt, output.reconstruction)
    assert torch.equal(target, degraded)
    expected = (output.reconstruction - degraded).abs().mean().item() + 0.25 * 3.0
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_missing_perceptual_loss_is_an_error():
    model = DegradationExtractorForPreTraining(small_extractor_config())
    text = (
        "`perceptual_loss` must be attached while `lpips_weight` is positive, got none; "
        "call attach_perceptual_loss or set lpips_weight to 0"
    )
    with pytest.raises(ValueError, match=text):
        model(pictures(), labels=pictures())


def test_no_perceptual_loss_is_needed_at_weight_zero():
    degraded = pictures()
    output = DegradationExtractorForPreTraining(small_extractor_config(lpips_weight=0.0))(degraded, labels=pictures())
    assert output.loss.item() == pytest.approx((output.reconstruction - degraded).abs().mean().item(), rel=1e-5)


def test_perceptual_network_is_not_part_of_the_weights():
    model = small_pretraining()
    names = set(model.state_dict())
    model.attach_perceptual_loss(nn.Conv2d(3, 3, 1))
    assert set(model.state_dict()) == names


def test_every_parameter_receives_a_gradient():
    model = randomized(small_pretraining())
    model(pictures(), labels=pictures()).loss.backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize("has_noise_channel", [True, False])
def test_noise_channel_makes_rebuilding_random(has_noise_channel):
    model, degraded, clean = randomized(small_pretraining(has_noise_channel=has_noise_channel)), pictures(), pictures()
    one, other = (model(degraded, labels=clean).reconstruction for _ in range(2))
    assert torch.equal(one, other) is not has_noise_channel


def test_rebuilt_picture_depends_on_the_degraded_one_only_through_the_embedding():
    model = randomized(small_pretraining(has_noise_channel=False))
    clean, degraded = pictures(), pictures()
    output = model(degraded, labels=clean)
    rebuilt = model.reconstruction_unit(clean, output.degradation_embedding)
    assert torch.equal(rebuilt, output.reconstruction)
    assert not torch.equal(model.reconstruction_unit(clean, output.degradation_embedding.flip(0)), rebuilt)


def test_embedding_scales_and_shifts_the_features_of_a_residual_block():
    block = randomized(small_pretraining()).reconstruction_unit.encoder[0]
    x, embedding = torch.randn(2, 5, 6, 4), torch.randn(2, 8)
    scale, shift = block.film(embedding)[:, :, None, None].chunk(2, dim=1)
    hidden = F.conv2d(x.permute(0, 3, 1, 2), block.conv1.weight, block.conv1.bias, padding=1)
    hidden = F.gelu((1 + scale) * hidden + shift)
    expected = x + F.conv2d(hidden, block.conv2.weight, block.conv2.bias, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x, embedding), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.ci
@pytest.mark.slow
def test_loss_falls():
    # A degradation that only the embedding can carry: each picture is brightened by an amount of its own.
    model = small_pretraining(has_noise_channel=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    clean = 0.5 * pictures(4, 8, 8)
    degraded = clean + torch.tensor([0.0, 0.15, 0.3, 0.5]).view(4, 1, 1, 1)
    losses = []
    for _ in range(60):
        loss = model(degraded, labels=clean).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_pretraining_keeps_its_branches_and_leaves_the_given_configuration_alone():
    config = small_extractor_config(is_merged=True)
    model = DegradationExtractorForPreTraining(config)
    assert config.is_merged
    assert not model.extractor.config.is_merged
    assert not any(stage.branches.is_merged for stage in model.extractor.stages)


def test_pretraining_reloads_bit_equal_and_its_extractor_alone_too(tmp_path):
    model = randomized(small_pretraining())
    model.save_pretrained(tmp_path / "pretraining")
    assert_same_weights(DegradationExtractorForPreTraining.from_pretrained(tmp_path / "pretraining"), model)
    model.extractor.save_pretrained(tmp_path / "extractor")
    for folder in ("extractor", "pretraining"):
        assert_same_weights(DegradationExtractorModel.from_pretrained(tmp_path / folder), model.extractor)


@pytest.fixture
def describing():
    """A model that also pre-trains its head."""
    return randomized(small_pretraining(description_weight=0.5))


def test_head_that_pretrains_along_adds_its_weighted_loss(describing):
    describing.attach_perceptual_loss(lambda *_: torch.zeros(()))
    degraded, severity = pictures(), torch.tensor([[0.0, 0.3, 0.9], [0.0, 0.0, 0.4]])
    output = describing(degraded, labels=pictures(), severity=severity)
    description = DegradationExtractorForDescription(describing.config)
    description.load_state_dict(describing.state_dict(), strict=False)
    expected = description(degraded, labels=severity)
    torch.testing.assert_close([output.presence, output.severity], [expected.presence, expected.severity])
    rebuilding = (output.reconstruction - degraded).abs().mean()
    torch.testing.assert_close(output.loss, rebuilding + 0.5 * expected.loss)
    assert output.keys() == {"loss", "reconstruction", "degradation_embedding", "presence", "severity"}


def test_head_that_pretrains_along_gives_every_parameter_a_gradient(describing):
    describing(pictures(), labels=pictures(), severity=torch.rand(2, 3)).loss.backward()
    assert without_gradient(describing) == []


def test_head_that_pretrains_along_describes_without_labels(describing):
    output = describing(pictures())
    assert output.keys() == {"degradation_embedding", "presence", "severity"}


def test_missing_severity_is_an_error(describing):
    text = (
        "`severity` must be given while `description_weight` is positive, got None; "
        "pass the true severities or set description_weight to 0"
    )
    with pytest.raises(ValueError, match=text):
        describing(pictures(), labels=pictures())


def test_head_that_pretrained_along_loads_for_description_and_can_be_left_out(tmp_path, describing):
    describing.save_pretrained(tmp_path)
    description, report = DegradationExtractorForDescription.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert_same_weights(description.description_head, describing.description_head)
    without = DegradationExtractorForPreTraining.from_pretrained(tmp_path, description_weight=0.0)
    assert without.description_head is None
    assert_same_weights(without.reconstruction_unit, describing.reconstruction_unit)


def test_weight_zero_has_no_head():
    assert not [name for name in small_pretraining().state_dict() if name.startswith("description_head")]


# Description


def test_kind_of_unknown_strength_counts_for_presence_alone():
    logits = [torch.randn(2, 3, requires_grad=True) for _ in range(2)]
    loss = describe_loss(*logits, torch.tensor([[torch.nan, 0.0, 0.0], [0.0, 0.6, 0.0]]))
    present = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    cross_entropy = F.binary_cross_entropy(logits[0].sigmoid(), present)
    torch.testing.assert_close(loss, cross_entropy + (logits[1].sigmoid()[1, 1] - 0.6).abs())
    loss.backward()
    assert all(each.grad.isfinite().all() for each in logits)


def test_patch_of_which_nothing_is_told_has_no_gradient():
    logits = [torch.randn(2, 3, requires_grad=True) for _ in range(2)]
    describe_loss(*logits, torch.tensor([[torch.nan] * 3, [0.0, 0.6, 0.0]])).backward()
    assert not any(each.grad[0].any() for each in logits)
    assert logits[0].grad[1].all()


def test_description_is_a_probability_and_a_severity_a_degradation():
    model = randomized(DegradationExtractorForDescription(small_extractor_config()))
    output = model(pictures(5))
    assert output.loss is None
    for each in (output.presence, output.severity):
        assert each.shape == (5, 3)
        assert ((each >= 0) & (each <= 1)).all()


@pytest.mark.parametrize("labels", [[[0.0, 0.3, 0.9], [0.0, 0.0, 0.4]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
def test_description_loss_is_cross_entropy_and_the_error_of_present_severities(labels):
    model, labels = randomized(DegradationExtractorForDescription(small_extractor_config())), torch.tensor(labels)
    output = model(pictures(), labels=labels)
    present = labels > 0
    expected = F.binary_cross_entropy(output.presence, present.float())
    if present.any():
        expected = expected + (output.severity - labels)[present].abs().mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)


def test_description_trains_its_head_alone(tmp_path):
    model = randomized(DegradationExtractorForDescription(small_extractor_config()))
    model.save_pretrained(tmp_path)
    for each in (model, DegradationExtractorForDescription.from_pretrained(tmp_path)):
        each(pictures(), labels=torch.rand(2, 3)).loss.backward()
        assert not any(parameter.requires_grad for parameter in each.extractor.parameters())
        assert without_gradient(each) == []


def test_description_reloads_bit_equal(tmp_path):
    model = randomized(DegradationExtractorForDescription(small_extractor_config()))
    model.save_pretrained(tmp_path)
    assert_same_weights(DegradationExtractorForDescription.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_extractor_learns_to_describe_only_where_the_configuration_says_so(is_frozen):
    model = DegradationExtractorForDescription(small_extractor_config(freeze_extractor=is_frozen))
    model(torch.rand(2, 3, 9, 12), labels=torch.tensor([[0.5, 0, 0], [0, 0, 0.2]])).loss.backward()
    assert all((each.grad is None) == is_frozen for each in model.extractor.parameters())
    assert all(each.grad is not None for each in model.description_head.parameters())
