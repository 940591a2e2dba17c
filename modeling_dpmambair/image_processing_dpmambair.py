"""Pictures in and out of the network: any of PIL, numpy or torch to RGB tensors in [0, 1], and back."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend

from .picture_dpmambair import Picture, read_values
from .picture_errors_dpmambair import naming
from .picture_files_dpmambair import read_picture

# What a saved processor may not say otherwise: it would restore wrong pictures without a word.
SETTINGS = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_resize": False,
    "do_center_crop": False,
    "do_pad": False,
    "do_normalize": False,
}


class DPMambaIRImageProcessor(TorchvisionBackend):
    """Turn pictures into `pixel_values`, (B, 3, H, W) float32 RGB in [0, 1], and restored tensors into pictures.

    Files and PIL pictures are read by the rules of `read_picture`; of one with an alpha channel the pixels that are
    wholly transparent are filled with the colours around them, and the channel is left out. Arrays and tensors,
    single or in batches, go by their type: uint8 is scaled by 1 / 255, floating point must be in [0, 1] and is taken
    as it is, all else is refused. Channels may come first or last; where there are three rows or columns as well,
    `input_data_format` tells.

    Nothing else is done: the model takes any size, so nothing is resized or padded, and settings that say otherwise
    are an error. Pictures that differ in size cannot share one tensor: give them one by one, or without
    `return_tensors`.
    """

    _auto_class = "AutoImageProcessor"  # saving carries this file
    do_convert_rgb = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_resize = False
    do_normalize = False
    model_input_names = ("pixel_values",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, value in SETTINGS.items():
            if (found := getattr(self, name, None)) != value and (found or value):
                raise ValueError(f"`{name}` must be {value}, got {found}; the model takes RGB of any size in [0, 1]")

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Picture | torch.Tensor]:
        """List what the caller gives: files and PIL pictures read, arrays and tensors one by one."""
        if isinstance(images, list | tuple) and not images:
            raise ValueError("`images` must hold a picture, got none; give at least one")
        if isinstance(images, list | tuple):
            return [each for part in images for each in self._prepare_images_structure(part)]
        if not isinstance(images, np.ndarray | torch.Tensor):
            with naming(images):
                return [read_picture(images).check_still()]
        if images.ndim not in (3, 4) or 0 in images.shape:
            rule = f"of shape (H, W, 3) or (3, H, W), or a batch, got {tuple(images.shape)}"
            raise ValueError(f"`images` must be {rule}; give RGB")
        values = read_values(images)
        return list(values) if values.ndim == 4 else [values]

    def process_image(self, image: Picture | torch.Tensor, **options: Any) -> torch.Tensor:
        """Return one picture as a tensor, (3, H, W): what was read as float, tensors as they are."""
        if isinstance(image, Picture):
            return image.fill_hidden().to(options.get("device"))
        return super().process_image(image, **options)

    def convert_to_rgb(self, image: torch.Tensor, **_: Any) -> torch.Tensor:
        """Repeat the channel of a grey picture, and leave out an alpha channel; channels first."""
        return image.expand(3, -1, -1) if image.shape[0] == 1 else image[:3]

    def rescale(self, image: torch.Tensor, scale: float, **_: Any) -> torch.Tensor:
        """Scale levels to [0, 1]: a division, because the product with a rounded 1 / 255 misses half the levels."""
        return image if image.is_floating_point() else image.to(torch.float32) / (1 / scale)

    def _preprocess(
        self, images: list[torch.Tensor], do_rescale: bool, rescale_factor: float, **options: Any
    ) -> BatchFeature:
        # One by one, before transformers stacks them: levels and floats may be in one batch.
        scaled = [self.rescale(each, rescale_factor) for each in images] if do_rescale else images
        sizes = sorted({tuple(each.shape[-2:]) for each in scaled})
        if options.get("return_tensors") and len(sizes) > 1:
            rule = f"of one size to share a tensor, got {len(sizes)} sizes such as {sizes[0]} and {sizes[1]}"
            raise ValueError(f"`images` must be {rule}; give them one by one, or without return_tensors")
        return super()._preprocess(scaled, do_rescale=False, rescale_factor=rescale_factor, **options)

    def post_process(self, reconstruction: torch.Tensor) -> list[Image.Image]:
        """Turn restored tensors into pictures.

        Args:
            reconstruction: restored pictures, (B, 3, H, W), RGB, any float dtype; clamped to [0, 1] here.

        Returns:
            PIL pictures, RGB, 8 bit, rounded to the nearest level.

        Raises:
            FloatingPointError: values that are not finite, which no level stands for.
        """
        if not reconstruction.isfinite().all():
            raise FloatingPointError("`reconstruction` must be finite, got NaN or infinity; try dtype float32")
        levels = reconstruction.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
        return [Image.fromarray(np.ascontiguousarray(each)) for each in levels.permute(0, 2, 3, 1).cpu().numpy()]


__all__ = ["DPMambaIRImageProcessor"]
