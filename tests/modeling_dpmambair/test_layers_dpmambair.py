import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling_dpmambair.layers_dpmambair import (
    CentralDifferenceBranches,
    ChannelsLastConv2d,
    Downsample,
    GatedFeedForward,
    HighFrequencyEnhancement,
    LinearDownsample,
    LinearUpsample,
    Upsample,
)


def channels_first(x):
    return x.permute(0, 3, 1, 2).contiguous()


def channels_last(x):
    return x.permute(0, 2, 3, 1)


# Convolution and resampling


@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (5, 1, 4), (7, 2, 2)])
def test_channels_last_convolution_is_torchs(size, stride, groups):
    conv, x = ChannelsLastConv2d(4, 8, size, stride, groups=groups), torch.randn(2, 9, 6, 4)
    expected = F.conv2d(channels_first(x), conv.weight, conv.bias, stride, size // 2, groups=groups)
    torch.testing.assert_close(conv(x), channels_last(expected), rtol=1e-5, atol=1e-5)


def test_downsample_halves_the_size_and_doubles_the_channels():
    down, x = Downsample(6, 12), torch.randn(2, 8, 12, 6)
    expected = F.pixel_unshuffle(F.conv2d(channels_first(x), down.conv.weight, padding=1), 2)
    y = down(x)
    assert y.shape == (2, 4, 6, 12)
    assert y.is_contiguous()
    torch.testing.assert_close(y, channels_last(expected), rtol=1e-5, atol=1e-5)


def test_upsample_doubles_the_size_and_halves_the_channels():
    up, x = Upsample(6, 3), torch.randn(2, 4, 5, 6)
    expected = F.pixel_shuffle(F.conv2d(channels_first(x), up.conv.weight, padding=1), 2)
    y = up(x)
    assert y.shape == (2, 8, 10, 3)
    assert y.is_contiguous()
    torch.testing.assert_close(y, channels_last(expected), rtol=1e-5, atol=1e-5)


def test_linear_downsample_is_a_convolution_of_squares():
    down, x = LinearDownsample(6, 12), torch.randn(2, 8, 12, 6)
    kernel = down.weight.unflatten(1, (2, 2, 6)).permute(0, 3, 1, 2)
    torch.testing.assert_close(
        down(x), channels_last(F.conv2d(channels_first(x), kernel, stride=2)), rtol=1e-5, atol=1e-5
    )


def test_linear_upsample_is_a_transposed_convolution_of_squares():
    up, x = LinearUpsample(6, 3), torch.randn(2, 4, 5, 6)
    kernel = up.weight.unflatten(0, (2, 2, 3)).permute(3, 2, 0, 1)
    expected = channels_last(F.conv_transpose2d(channels_first(x), kernel, stride=2))
    assert up(x).is_contiguous()
    torch.testing.assert_close(up(x), expected, rtol=1e-5, atol=1e-5)


# High-frequency enhancement (Eq. 10)


def test_enhancement_is_equation_10():
    heb, x = HighFrequencyEnhancement(), torch.randn(2, 5, 7, 3)
    nn.init.constant_(heb.scale, 0.37)
    pooled = F.adaptive_avg_pool2d(channels_first(x), 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(heb(x), x + 0.37 * (x - pooled), rtol=1e-6, atol=1e-6)


def test_enhancement_starts_as_the_identity_and_learns():
    heb, x = HighFrequencyEnhancement(), torch.randn(2, 5, 7, 3)
    y = heb(x)
    assert torch.equal(y, x)
    (y * x).sum().backward()
    assert heb.scale.grad.item() == pytest.approx((x * (x - x.mean((1, 2), keepdim=True))).sum().item(), rel=1e-4)


def test_enhancement_leaves_constant_features_and_their_dtype():
    heb, x = HighFrequencyEnhancement(), torch.full((1, 4, 4, 2), 0.5, dtype=torch.bfloat16)
    nn.init.constant_(heb.scale, 2.0)
    assert torch.equal(heb(x), x)


# Feed-forward


@pytest.mark.parametrize(("dim", "ratio"), [(4, 2.0), (6, 1.5), (3, 2.66)])
def test_feed_forward_is_restormers_written_channels_first(dim, ratio):
    ffn, x = GatedFeedForward(dim, ratio), torch.randn(2, 5, 6, dim)
    hidden = int(dim * ratio)
    wide = F.conv2d(channels_first(x), ffn.in_proj.weight[..., None, None])
    wide = F.conv2d(wide, ffn.conv.weight, padding=1, groups=2 * hidden)
    gated = F.gelu(wide[:, :hidden]) * wide[:, hidden:]
    expected = F.conv2d(gated, ffn.out_proj.weight[..., None, None])
    torch.testing.assert_close(ffn(x), channels_last(expected), rtol=1e-5, atol=1e-6)


def test_feed_forward_has_no_bias():
    assert [name for name, _ in GatedFeedForward(4, 2.0).named_parameters() if "bias" in name] == []


# Central-difference branches


def central_difference(x, weight, stride, theta):
    """The textbook's two terms: a plain convolution, less theta times the centre pixel under the kernel's sum."""
    plain = F.conv2d(extend(x, weight.shape[-1] // 2), weight, stride=stride)
    return plain - theta * F.conv2d(x, weight.sum((2, 3), keepdim=True), stride=stride)


def extend(x, by):
    return F.pad(x, (by, by, by, by), mode="replicate")


def branch_by_branch(branches, x):
    total = F.conv2d(extend(x, 1), branches.plain.weight, branches.plain.bias, branches.stride)
    for branch in branches.differences:
        total = total + central_difference(x, branch.weight, branches.stride, branches.theta)
    return total


every_form = pytest.mark.parametrize(("sizes", "stride", "theta"), [
    ([3, 3, 5, 7], 1, 0.7), ([3, 3, 5], 2, 0.7), ([1], 1, 1.0), ([5, 3], 2, 0.0),
])  # fmt: skip


@every_form
@pytest.mark.parametrize("size", [(1, 1), (6, 9)])
def test_branches_are_the_sum_of_textbook_difference_convolutions(sizes, stride, theta, size):
    branches, x = CentralDifferenceBranches(3, 4, sizes, stride, theta), torch.randn(2, *size, 3)
    expected = branch_by_branch(branches, channels_first(x))
    torch.testing.assert_close(branches(x), channels_last(expected), rtol=1e-5, atol=1e-5)


@every_form
def test_gradients_are_those_of_the_branches_run_apart(sizes, stride, theta):
    branches, x = CentralDifferenceBranches(3, 4, sizes, stride, theta), torch.randn(2, 6, 9, 3)
    ours = torch.autograd.grad(branches(x).square().sum(), list(branches.parameters()))
    apart = torch.autograd.grad(branch_by_branch(branches, channels_first(x)).square().sum(), [*branches.parameters()])
    for gradient, expected in zip(ours, apart, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@every_form
def test_merging_changes_no_output_and_leaves_one_convolution(sizes, stride, theta):
    branches, x = CentralDifferenceBranches(3, 4, sizes, stride, theta), torch.randn(2, 6, 9, 3)
    before = branches(x)
    assert not branches.is_merged
    branches.merge()
    assert branches.is_merged
    assert [name for name, _ in branches.named_parameters()] == ["merged.weight", "merged.bias"]
    torch.testing.assert_close(branches(x), before, rtol=1e-6, atol=1e-6)


def test_merging_twice_is_merging_once():
    branches, x = CentralDifferenceBranches(3, 4, [3, 5]), torch.randn(1, 6, 9, 3)
    branches.merge()
    kernel, before = branches.merged, branches(x)
    branches.merge()
    assert branches.merged is kernel
    assert torch.equal(branches(x), before)


@pytest.mark.parametrize("is_trainable", [True, False])
def test_merging_keeps_the_dtype_and_whether_the_weights_are_trained(is_trainable):
    branches = CentralDifferenceBranches(3, 4, [3, 5]).double().requires_grad_(is_trainable)
    branches.merge()
    assert {(each.dtype, each.requires_grad) for each in branches.parameters()} == {(torch.float64, is_trainable)}


@pytest.mark.parametrize("width", [1, 2, 3])
def test_branches_of_narrow_features_equal_their_merged_form(width):
    branches, x = CentralDifferenceBranches(3, 4, [3, 5], stride=2), torch.randn(1, 9, width, 3)
    before = branches(x)
    branches.merge()
    assert before.shape == (1, 5, (width + 1) // 2, 4)
    torch.testing.assert_close(branches(x), before, rtol=0, atol=1e-5)


def test_merged_form_can_be_built_at_once():
    branches = CentralDifferenceBranches(3, 4, [3, 7], 2, is_merged=True)
    assert branches.is_merged
    assert branches.merged.weight.shape == (4, 3, 7, 7)
    assert branches(torch.randn(1, 5, 8, 3)).shape == (1, 3, 4, 4)


def test_full_central_difference_ignores_a_constant():
    branches = CentralDifferenceBranches(3, 4, [3, 5, 7], theta=1.0)
    nn.init.zeros_(branches.plain.weight)
    nn.init.zeros_(branches.plain.bias)
    inside = branches(torch.full((1, 9, 9, 3), 0.8))[:, 3:-3, 3:-3]
    torch.testing.assert_close(inside, torch.zeros_like(inside), rtol=0, atol=1e-5)
