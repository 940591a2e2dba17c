"""Colours that are neither grey nor RGB to sRGB of 8 bits, and associated alpha out of the colours."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms


def to_srgb(image: Image.Image, profile: bytes | None = None) -> Image.Image:
    """Convert CMYK by its profile, plainly where it has none that works, and CIE L*a*b* by its definition.

    Args:
        image: of mode CMYK or LAB.
        profile: an ICC profile of the inks.

    Returns:
        A picture of mode RGB.
    """
    source = ImageCms.createProfile("LAB") if image.mode == "LAB" else BytesIO(profile) if profile else None
    try:
        if source is not None:
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        pass  # a broken profile, or one of other inks
    return image.convert("RGB")


def scale_levels(samples: np.ndarray, bits: int) -> np.ndarray:
    """Return samples of 1 to 16 bits, of any shape, as levels of 8 bits, or of 16 where there are more than 8."""
    dtype = np.uint8 if bits <= 8 else np.uint16
    top, highest = np.iinfo(dtype).max, 2**bits - 1
    return samples.astype(dtype) if highest == top else np.rint(samples * (top / highest)).astype(dtype)


def divide_alpha(levels: np.ndarray) -> np.ndarray:
    """Divide associated alpha, the last channel, out of the others; levels (H, W, C), uint8 or uint16."""
    top, alpha = np.iinfo(levels.dtype).max, levels[..., -1:]
    colours = np.rint(levels[..., :-1] * (top / np.maximum(alpha, 1).astype(np.float32))).clip(0, top)
    return np.concatenate([colours.astype(levels.dtype), alpha], -1)


__all__ = ["divide_alpha", "scale_levels", "to_srgb"]
