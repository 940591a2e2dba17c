"""PSNR and SSIM of RGB images as the restoration literature reports them: per image, over RGB or of the luma alone."""

import math

import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

SSIM_WINDOW = 11
# ITU-R BT.601: of red, green and blue in [0, 1], and what black is, on a scale of 255.
LUMA_WEIGHTS, LUMA_BLACK = (65.481, 128.553, 24.966), 16


def psnr(restored: Tensor, clean: Tensor, data_range: float = 1.0, *, is_luma: bool = False) -> Tensor:
    """Measure the peak signal-to-noise ratio over height, width and RGB together, or of the luma alone.

    Args:
        restored: images to judge, (B, 3, H, W), RGB in [0, `data_range`].
        clean: ground truths, same shape and range.
        data_range: distance from black to white: 1.0 for floats, 255 for 8 bit.
        is_luma: compare the luma of `to_luma`.

    Returns:
        Decibels, (B,), float64; infinite where both images are identical.

    Raises:
        ValueError: an argument is no batch of RGB images, the shapes differ, or the values do not fit `data_range`.
    """
    restored, clean = _prepare(restored, clean, data_range, is_luma)
    return peak_signal_noise_ratio(restored, clean, data_range=float(data_range), reduction="none", dim=(1, 2, 3))


def ssim(restored: Tensor, clean: Tensor, data_range: float = 1.0, *, is_luma: bool = False) -> Tensor:
    """Measure the structural similarity (Wang et al. 2004), the mean over the RGB channels, or of the luma alone.

    The window is the paper's Gaussian, 11 x 11 with sigma 1.5. As in the paper and in scikit-image, only positions
    at which the window lies wholly inside the image count.

    Args:
        restored: images to judge, (B, 3, H, W), RGB in [0, `data_range`], at least 11 x 11 pixels.
        clean: ground truths, same shape and range.
        data_range: distance from black to white: 1.0 for floats, 255 for 8 bit.
        is_luma: compare the luma of `to_luma`.

    Returns:
        Similarity in [-1, 1], (B,), float64, without a gradient; 1 where both images are identical.

    Raises:
        ValueError: an argument is no batch of RGB images, the shapes differ, an image is smaller than the window, or
            the values do not fit `data_range`.
    """
    prepared = _prepare(restored, clean, data_range, is_luma, minimum=SSIM_WINDOW)
    # Not torchmetrics: it averages over a mirrored border too, errs by 2e-3 on bright flat areas in float32, and takes
    # ten times as long in float64.
    values = [
        structural_similarity(
            *pair, channel_axis=0, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for pair in zip(*(images.detach().cpu().numpy() for images in prepared), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64, device=restored.device)


def to_luma(images: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the luma Y of ITU-R BT.601 in studio range, on which papers on rain and on super-resolution report.

    It is what MATLAB's `rgb2ycbcr` gives: black is 16 and white 235 where `data_range` is 255, so that scores with
    that range come out higher than those of a luma from 0 to 255.

    Args:
        images: (B, 3, H, W), RGB in [0, `data_range`].
        data_range: distance from black to white.

    Returns:
        Y, (B, 1, H, W).
    """
    weights = images.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)
    return (weights * images).sum(1, keepdim=True) / 255 + data_range * LUMA_BLACK / 255


def _prepare(
    restored: Tensor, clean: Tensor, data_range: float, is_luma: bool, minimum: int = 1
) -> tuple[Tensor, Tensor]:
    check_image_batches(restored, clean, minimum)
    if not 0 < data_range < math.inf:
        raise ValueError(
            f"`data_range` must be above 0 and finite, got {data_range}; give 1.0 for floats, 255 for 8 bit"
        )
    for name, images in (("restored", restored), ("clean", clean)):
        low, high = (bound.item() for bound in images.detach().aminmax())
        if not (low >= 0 and high <= data_range):
            raise ValueError(
                f"`{name}` must be in [0, {data_range}], got [{low:g}, {high:g}]; "
                "clip the values, or give their `data_range`"
            )
    images = restored.double(), clean.double()
    return tuple(to_luma(one, data_range) for one in images) if is_luma else images


def check_image_batches(restored: Tensor, clean: Tensor, minimum: int = 1) -> None:
    """Refuse anything but two RGB batches of one shape.

    Args:
        restored: to be (B, 3, H, W).
        clean: to be of the same shape.
        minimum: smallest permitted height and width, in pixels.

    Raises:
        ValueError: a rule is broken.
    """
    if restored.ndim != 4 or restored.shape[1] != 3:
        raise ValueError(
            f"`restored` must be a batch of RGB images (B, 3, H, W), got {tuple(restored.shape)}; "
            "add the batch axis with `unsqueeze(0)` and put the channels second"
        )
    if not len(restored):
        raise ValueError("`restored` must hold at least one image, got none; give the images to judge")
    if clean.shape != restored.shape:
        raise ValueError(
            f"`clean` must have the shape of `restored`, {tuple(restored.shape)}, got {tuple(clean.shape)}; "
            "compare images of one size"
        )
    if min(restored.shape[-2:]) < minimum:
        height, width = restored.shape[-2:]
        raise ValueError(
            f"`restored` must be at least {minimum} x {minimum} pixels, got {height} x {width}; measure larger images"
        )
