"""Scores of a restored picture, in all the ways in which papers report them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from restoration_metrics.functional import psnr, ssim
from restoration_metrics.perceptual import PerceptualLoss, lpips_distance

# Of RGB; `psnr_y` and `ssim_y` are those of the luma, and `lpips` needs a backbone.
METRICS = {"psnr": psnr, "ssim": ssim}
# The method that leaves pictures as they are; all others are measured by what they add to it.
DEGRADED = "degraded"


@dataclass(frozen=True)
class Scorer:
    """Measures pictures against their ground truths.

    Attributes:
        border: pixels cut off each side before anything is measured.
        perceptual: measures LPIPS; None leaves it out.
    """

    border: int = 0
    perceptual: PerceptualLoss | None = None

    def __call__(self, restored: Image.Image, clean: Image.Image) -> dict[str, float]:
        """Measure a picture.

        Args:
            restored: RGB, 8 bit.
            clean: ground truth, likewise, of the same size.

        Returns:
            `psnr` in dB and `ssim` over RGB, `psnr_y` and `ssim_y` of the luma (`to_luma`), and `lpips`.

        Raises:
            ValueError: the pictures differ in size, or what the border leaves is too small for a metric.
        """
        if min(clean.size) <= 2 * self.border:
            raise ValueError(
                f"`border` must leave something of a picture of {clean.width} x {clean.height} pixels, "
                f"got {self.border}; cut off less"
            )
        pair = self._to_batch(restored), self._to_batch(clean)
        values = {name: metric(*pair).item() for name, metric in METRICS.items()}
        values |= {f"{name}_y": metric(*pair, is_luma=True).item() for name, metric in METRICS.items()}
        if self.perceptual is not None:
            device = next(self.perceptual.parameters()).device
            with torch.inference_mode():
                values["lpips"] = lpips_distance(*(each.to(device) for each in pair), self.perceptual).item()
        return values

    def _to_batch(self, picture: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(ImageOps.crop(picture, self.border)))
        # float64, so that k / 255 carries no rounding into the metric
        return pixels.permute(2, 0, 1)[None].double() / 255  # (1, 3, H, W)


def compare(scores: Mapping[str, Mapping[str, Any]], method: str) -> dict[str, float | None]:
    """Set what a method reached beside what it was given.

    Args:
        scores: of each method, `DEGRADED` among them, its numbers; None where no number holds one.
        method: which.

    Returns:
        `psnr_degraded`, `psnr_restored` and `psnr_gain` in dB, and the same three of `ssim`.
    """
    values: dict[str, float | None] = {}
    for name in METRICS:
        before, after = scores[DEGRADED][name], scores[method][name]
        # What was and stays identical to the clean picture gains nothing, though infinity minus itself is no number.
        gain = None if before is None or after is None else 0.0 if after == before else after - before
        values |= {f"{name}_degraded": before, f"{name}_restored": after, f"{name}_gain": gain}
    return values
