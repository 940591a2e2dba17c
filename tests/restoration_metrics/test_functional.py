import math

import numpy as np
import pytest
import torch
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
from torchmetrics.functional.image import structural_similarity_index_measure

from restoration_metrics import psnr, ssim
from restoration_metrics.functional import to_luma


def to_batch(*pictures):
    return torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures]).float() / 255


def add_noise(picture, sigma):
    noise = np.random.default_rng(0).normal(0, sigma, picture.shape)
    return np.clip(np.round(picture + noise), 0, 255).astype(np.uint8)


ASTRONAUT = data.astronaut()[40:104, 180:270]
COFFEE = data.coffee()[100:164, 200:290]
BRIGHT = np.full_like(COFFEE, 250)


@pytest.mark.parametrize("sigma", [1, 15, 50])
def test_psnr_agrees_with_scikit_image(sigma):
    clean = [ASTRONAUT, COFFEE]
    restored = [add_noise(picture, sigma) for picture in clean]
    expected = [peak_signal_noise_ratio(one, other) for one, other in zip(clean, restored, strict=True)]
    assert psnr(to_batch(*restored), to_batch(*clean)).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sigma", [1, 15, 50])
def test_ssim_agrees_with_scikit_image_on_8_bit_pictures(sigma):
    clean = [ASTRONAUT, COFFEE, BRIGHT]
    restored = [add_noise(picture, sigma) for picture in clean]
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        structural_similarity(one, other, channel_axis=2, data_range=255, **window)
        for one, other in zip(clean, restored, strict=True)
    ]
    assert ssim(to_batch(*restored), to_batch(*clean)).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sigma", [1, 15, 50])
def test_ssim_agrees_with_torchmetrics_inside_the_border(sigma):
    clean = to_batch(ASTRONAUT, COFFEE, BRIGHT).double()
    restored = to_batch(*(add_noise(picture, sigma) for picture in (ASTRONAUT, COFFEE, BRIGHT))).double()
    _, similarity = structural_similarity_index_measure(
        restored, clean, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    torch.testing.assert_close(ssim(restored, clean), similarity[..., 5:-5, 5:-5].mean((1, 2, 3)), rtol=0, atol=1e-8)


@pytest.mark.parametrize("offset", [0.1, 0.01])
def test_psnr_of_a_known_offset(offset):
    clean = torch.full((2, 3, 4, 5), 0.5)
    assert psnr(clean + offset, clean).tolist() == pytest.approx(2 * [-20 * math.log10(offset)], abs=1e-4)


def test_ssim_of_flat_images_is_the_luminance_term():
    clean, restored = torch.full((1, 3, 11, 11), 0.5), torch.full((1, 3, 11, 11), 0.8)
    expected = (2 * 0.5 * 0.8 + 1e-4) / (0.5**2 + 0.8**2 + 1e-4)
    assert ssim(restored, clean).item() == pytest.approx(expected, abs=1e-6)


def test_identical_images_are_infinitely_good():
    images = to_batch(ASTRONAUT, BRIGHT)
    assert psnr(images, images).tolist() == [math.inf, math.inf]
    assert ssim(images, images).tolist() == pytest.approx([1, 1], abs=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_data_range_scales_with_the_values(metric):
    clean, restored = to_batch(COFFEE), to_batch(add_noise(COFFEE, 20))
    torch.testing.assert_close(metric(255 * restored, 255 * clean, data_range=255), metric(restored, clean))
    assert metric(restored, clean, data_range=255).item() > metric(restored, clean).item() + 0.1


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_batch_equals_its_images_one_by_one(metric):
    clean, restored = to_batch(ASTRONAUT, COFFEE), to_batch(add_noise(ASTRONAUT, 5), add_noise(COFFEE, 40))
    singles = torch.cat([metric(restored[i : i + 1], clean[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(metric(restored, clean), singles)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 16, 16, 3)])
def test_other_layouts_are_refused(metric, shape):
    images = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"`restored` must be a batch of RGB images \(B, 3, H, W\), got .*unsqueeze"):
        metric(images, images)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_different_sizes_are_refused(metric):
    with pytest.raises(
        ValueError, match=r"`clean` must have the shape of `restored`, \(1, 3, 16, 16\), got \(1, 3, 16, 15"
    ):
        metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 15))


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="`restored` must be at least 11 x 11 pixels, got 30 x 10; measure larger"):
        ssim(torch.zeros(1, 3, 30, 10), torch.zeros(1, 3, 30, 10))


def test_psnr_agrees_with_torchmetrics():
    clean, restored = to_batch(COFFEE), to_batch(add_noise(COFFEE, 20))
    assert psnr(restored, clean).item() == pytest.approx(torchmetrics_psnr(restored, clean, 1.0).item(), abs=1e-3)


def test_luma_is_that_of_scikit_image():
    expected = rgb2ycbcr(np.stack([ASTRONAUT, COFFEE]), channel_axis=3)[..., 0]
    found = to_luma(255 * to_batch(ASTRONAUT, COFFEE).double(), 255)
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sigma", [1, 50])
def test_scores_of_the_luma_agree_with_scikit_image(sigma):
    restored = add_noise(COFFEE, sigma)
    lumas = [rgb2ycbcr(picture)[..., 0] for picture in (COFFEE, restored)]
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pair = to_batch(restored), to_batch(COFFEE)
    expected = peak_signal_noise_ratio(*lumas, data_range=255)
    assert psnr(*pair, is_luma=True).item() == pytest.approx(expected, abs=1e-4)
    expected = structural_similarity(*lumas, data_range=255, **window)
    assert ssim(*pair, is_luma=True).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("data_range", [0, -1.0, math.inf, math.nan])
def test_impossible_ranges_are_refused(metric, data_range):
    images = torch.full((1, 3, 16, 16), 0.5)
    rule = f"`data_range` must be above 0 and finite, got {data_range}; give 1.0 for floats, 255 for 8 bit"
    with pytest.raises(ValueError, match=rule):
        metric(images, images, data_range=data_range)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("value", [255.0, -0.01, math.nan])
def test_values_that_do_not_fit_the_range_are_refused(metric, value):
    clean, restored = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.5)
    restored[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=r"`restored` must be in \[0, 1.0\], got \[.*\]; clip the values, or give"):
        metric(restored, clean)
    with pytest.raises(ValueError, match=r"`clean` must be in \[0, 1.0\], got"):
        metric(clean, restored)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_empty_batches_are_refused(metric):
    with pytest.raises(
        ValueError, match="`restored` must hold at least one image, got none; give the images to judge"
    ):
        metric(torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16))
