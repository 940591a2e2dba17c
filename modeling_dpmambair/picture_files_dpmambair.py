"""The one reader of pictures: whatever holds a photograph becomes RGB or RGBA, upright, 8 bit.

| given | becomes |
|---|---|
| a file, as path, content or open file | its picture, if it is one of `FORMATS` and has one frame |
| a multi-picture JPEG of a phone or camera | its first picture; previews and depth maps follow |
| EXIF orientation | applied |
| grey, palette, CMYK | RGB |
| 16-bit grey | divided by 257, so that white stays white; of 16-bit colour Pillow itself keeps the high bytes |
| transparency | the alpha channel of RGBA |
| an ICC profile | `info["icc_profile"]`, if it describes RGB |
| array or tensor | taken as it is, if it is uint8, or floating point in [0, 1] |
"""

import os
from io import BytesIO
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

# A closed list, because Pillow also opens formats that run other programs (EPS) or hold no photographs (PDF, WMF).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

PictureSource: TypeAlias = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray


def read_picture(source: PictureSource) -> Image.Image:
    """Read a picture, upright, in mode RGB, or RGBA where there is transparency.

    Args:
        source: local file by its path, its content, or opened; PIL picture of any mode; array (H, W, 3), RGB, uint8 or
            float in [0, 1], which is rounded to 8 bits.

    Raises:
        TypeError: none of these.
        ValueError: an address, an array of another shape, an animation, or pixel values without a known range.
        OSError: a file that is missing, damaged or no picture.
        PIL.Image.DecompressionBombError: more pixels than Pillow's guard allows.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(ImageOps.exif_transpose(source))
    if isinstance(source, np.ndarray):
        values = read_values(check_layout(source))
        levels = values.mul(255).round().to(torch.uint8) if values.is_floating_point() else values
        return Image.fromarray(levels.numpy())
    if isinstance(source, str | os.PathLike):
        if "://" in os.fspath(source):
            raise ValueError(f"`image` must be a local file, got {source}; download it first")
    elif not isinstance(source, bytes) and not hasattr(source, "read"):
        raise TypeError(f"`image` must be a file, a PIL picture or an array, got {type(source).__name__}; convert it")
    return _read_file(source)


def check_layout(array: np.ndarray) -> np.ndarray:
    """Return an array that holds one picture, (H, W, 3); a `ValueError` says that it does not."""
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"`image` must be of shape (H, W, 3), got {array.shape}; give RGB, channels last")
    return array


def read_values(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return the values of pictures of any layout as a tensor: uint8 levels, or float32 in [0, 1].

    Raises:
        ValueError: another type, or values outside their range.
    """
    is_array = isinstance(array, np.ndarray)
    is_float = np.issubdtype(array.dtype, np.floating) if is_array else array.is_floating_point()
    if not is_float and str(array.dtype).removeprefix("torch.") != "uint8":
        raise ValueError(f"`image` must be uint8 or float, got {array.dtype}; convert it to one of them")
    if is_array:
        # A copy in order, because torch takes no negative strides, no other byte order and no read-only memory.
        array = torch.from_numpy(np.array(array, np.float32 if is_float else np.uint8, order="C"))
    if not is_float:
        return array
    low, high = (bound.item() for bound in array.detach().float().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"`image` must be in [0, 1] if it is float, got [{low}, {high}]; divide it by its range")
    return array.float()


def _read_file(source: str | os.PathLike | bytes | BinaryIO) -> Image.Image:
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames == 1:
                image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        name = source if isinstance(source, str | os.PathLike) else "other content"
        rule = f"a picture in one of the formats {', '.join(FORMATS)}"
        raise UnidentifiedImageError(f"`image` must be {rule}, got {name}; convert it") from error
    except (OSError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:  # of damaged files Pillow's decoders raise half a dozen unrelated types
        raise OSError(f"image file is damaged: {error}") from error
    if frames > 1:
        raise ValueError(f"`image` must have one frame, got {frames}; extract the frame to restore")
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"`image` must have 8 or 16 bits per channel, got mode {image.mode}; convert it first")
    converted = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode not in ("RGB", "RGBA", "P"):
        converted.info.pop("icc_profile", None)
    return converted


__all__ = ["FORMATS", "PictureSource", "check_layout", "read_picture", "read_values"]
