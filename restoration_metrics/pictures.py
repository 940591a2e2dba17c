"""Metrics over 8-bit pictures of any sizes, as files hold them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def measure_pictures(
    metric: Callable[[Tensor, Tensor], Tensor],
    restored: Sequence[Image.Image | np.ndarray],
    clean: Sequence[Image.Image | np.ndarray],
) -> list[float]:
    """Apply a metric to each pair of pictures by itself, so that pairs may differ in size.

    Args:
        metric: function of two batches (1, 3, H, W) in [0, 1] that returns one number, such as `psnr`.
        restored: pictures to judge, RGB, 8 bit, (H, W, 3).
        clean: ground truths in the same order.

    Returns:
        One number per pair.

    Raises:
        TypeError: a picture is not 8 bit.
        ValueError: the lists differ in length, the pictures of a pair differ in size, or one is not RGB.
    """
    if len(restored) != len(clean):
        raise ValueError(
            f"`restored` must hold as many pictures as `clean`, {len(clean)}, got {len(restored)}; pair them first"
        )
    return [metric(_to_batch(one), _to_batch(truth)).item() for one, truth in zip(restored, clean, strict=True)]


def _to_batch(picture: Image.Image | np.ndarray) -> Tensor:
    pixels = np.array(picture)
    if pixels.dtype != np.uint8:
        raise TypeError(f"pictures must be 8 bit, got {pixels.dtype}; round them to 0 ... 255 first")
    # float64, so that k / 255 carries no rounding into the metric
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).unsqueeze(0).double() / 255  # (1, C, H, W)
