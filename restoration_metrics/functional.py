"""PSNR and SSIM of RGB images as the restoration literature reports them: per image, over all three channels."""

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

SSIM_WINDOW = 11


def psnr(restored: Tensor, clean: Tensor, data_range: float = 1.0) -> Tensor:
    """Measure the peak signal-to-noise ratio over height, width and RGB together.

    Args:
        restored: images to judge, (B, 3, H, W), RGB in [0, `data_range`].
        clean: ground truths, same shape and range.
        data_range: distance from black to white: 1.0 for floats, 255 for 8 bit.

    Returns:
        Decibels, (B,), float64; infinite where both images are identical.

    Raises:
        ValueError: an argument is no batch of RGB images, or the shapes differ.
    """
    check_image_batches(restored, clean)
    return peak_signal_noise_ratio(
        restored.double(), clean.double(), data_range=float(data_range), reduction="none", dim=(1, 2, 3)
    )


def ssim(restored: Tensor, clean: Tensor, data_range: float = 1.0) -> Tensor:
    """Measure the structural similarity (Wang et al. 2004), the mean over the three RGB channels.

    The window is the paper's Gaussian, 11 x 11 with sigma 1.5. As in the paper and in scikit-image, only positions
    at which the window lies wholly inside the image count.

    Args:
        restored: images to judge, (B, 3, H, W), RGB in [0, `data_range`], at least 11 x 11 pixels.
        clean: ground truths, same shape and range.
        data_range: distance from black to white: 1.0 for floats, 255 for 8 bit.

    Returns:
        Similarity in [-1, 1], (B,), float64, without a gradient; 1 where both images are identical.

    Raises:
        ValueError: an argument is no batch of RGB images, the shapes differ, or an image is smaller than the window.
    """
    check_image_batches(restored, clean, minimum=SSIM_WINDOW)
    # Not torchmetrics: it averages over a mirrored border too, errs by 2e-3 on bright flat areas in float32, and takes
    # ten times as long in float64.
    values = [
        structural_similarity(
            *pair, channel_axis=0, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for pair in zip(_to_numpy(restored), _to_numpy(clean), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64, device=restored.device)


def _to_numpy(images: Tensor) -> np.ndarray:
    return images.detach().double().cpu().numpy()


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
