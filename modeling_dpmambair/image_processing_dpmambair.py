"""Pictures in and out of the network: any of PIL, numpy or torch to RGB tensors in [0, 1], and back."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import TorchvisionBackend


class DPMambaIRImageProcessor(TorchvisionBackend):
    """Turn pictures into `pixel_values`, (B, 3, H, W) float32 RGB in [0, 1], and restored tensors into pictures.

    It converts to RGB and scales by 1 / 255, and does nothing else: the model takes any size, so nothing is resized or
    padded. Pictures that differ in size cannot share one tensor: give them one by one, or without `return_tensors`.
    """

    _auto_class = "AutoImageProcessor"  # saving carries this file
    do_convert_rgb = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_resize = False
    do_normalize = False
    model_input_names = ("pixel_values",)

    def rescale(self, image: torch.Tensor, scale: float, **_: Any) -> torch.Tensor:
        """Scale levels to [0, 1]: a division, because the product with a rounded 1 / 255 misses half the levels."""
        return image.to(torch.float32) / (1 / scale)

    def post_process(self, reconstruction: torch.Tensor) -> list[Image.Image]:
        """Turn restored tensors into pictures.

        Args:
            reconstruction: restored pictures, (B, 3, H, W), RGB, any float dtype; clamped to [0, 1] here.

        Returns:
            PIL pictures, RGB, 8 bit, rounded to the nearest level.
        """
        levels = reconstruction.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
        return [Image.fromarray(np.ascontiguousarray(each)) for each in levels.permute(0, 2, 3, 1).cpu().numpy()]


__all__ = ["DPMambaIRImageProcessor"]
