"""The levels of opened pictures as other programs show them: grey or RGB, with alpha or without, 8 or 16 bits.

Pillow decodes what has up to 8 bits a channel, and 16-bit grey. It holds no colour of 16 bits, and takes few of the
many forms of TIFF: those are read here, with imagecodecs and tifffile where they are installed.
"""

import re
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

try:
    import imagecodecs
except ImportError:  # a stranger who has this file from the Hub
    imagecodecs = None
try:
    import tifffile
except ImportError:
    tifffile = None

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SRGB = ImageCms.createProfile("sRGB")


def read_levels(image: Image.Image) -> np.ndarray:
    """Return the levels of an opened picture.

    Args:
        image: of any mode; where it was opened from a file and not yet loaded, the file may be read again.

    Returns:
        Levels, (H, W, C), uint8 or uint16, not yet turned by the orientation. C is 1 (grey), 2 (grey and alpha), 3
        (RGB) or 4 (RGB and alpha).

    Raises:
        ValueError: pixels without a known range.
        OSError: a package is missing that reads them.
    """
    stream = getattr(image, "fp", None) if getattr(image, "tile", None) else None
    if stream is not None and image.format == "PNG" and _png_depth(stream) == 16:
        return _read_deep_png(stream)
    if stream is not None and image.format == "PPM" and image.mode == "RGB" and _pnm_limit(image) > 255:
        return _read_deep_ppm(image)
    image.load()
    return convert_levels(image)


def convert_levels(image: Image.Image) -> np.ndarray:
    """Return the levels of a loaded picture of any mode, as `read_levels` does."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _convert_deep_grey(image)
    if image.mode in ("I", "F"):
        raise ValueError(f"`image` must have 8 or 16 bits per channel, got mode {image.mode}; convert it first")
    if image.mode in ("CMYK", "LAB"):
        image = to_srgb(image, image.info.get("icc_profile"))
    is_grey = image.mode in ("1", "L", "LA", "La")
    colours = "L" if is_grey else "RGB"
    levels = np.asarray(image.convert(colours + "A" * image.has_transparency_data))
    return levels.reshape(image.height, image.width, -1)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert CMYK by its profile, or plainly where it has none that works, and L*a*b* as it is defined."""
    try:
        if image.mode == "LAB":
            return ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), SRGB, outputMode="RGB")
        if profile:
            return ImageCms.profileToProfile(image, BytesIO(profile), SRGB, outputMode="RGB")
    except ImageCms.PyCMSError:
        pass
    return image.convert("RGB")


def _convert_deep_grey(image: Image.Image) -> np.ndarray:
    levels = np.asarray(image).astype(np.uint16)[..., None]
    hidden = image.info.get("transparency")
    if hidden is None:
        return levels
    return np.concatenate([levels, np.where(levels == hidden, 0, 65535).astype(np.uint16)], -1)


def _png_depth(stream: BinaryIO) -> int:
    stream.seek(24)
    return stream.read(1)[0]


def _read_deep_png(stream: BinaryIO) -> np.ndarray:
    if imagecodecs is None:
        raise OSError("16-bit PNG needs imagecodecs; pip install imagecodecs")
    stream.seek(0)
    levels = imagecodecs.png_decode(stream.read())
    return levels.reshape(*levels.shape[:2], -1)


def _pnm_limit(image: Image.Image) -> int:
    return image.tile[0].args[-1] if isinstance(image.tile[0].args, tuple) else 255


def _read_deep_ppm(image: Image.Image) -> np.ndarray:
    name, _, start, (_, limit) = image.tile[0]
    image.fp.seek(start)
    content, count = image.fp.read(), 3 * image.width * image.height
    if name == "ppm_plain":
        values = np.array(re.sub(rb"#[^\r\n]*", b" ", content).split()[:count], np.uint32)
    else:
        values = np.frombuffer(content, ">u2", count)
    scaled = np.rint(values.reshape(image.height, image.width, 3) * (65535 / limit))
    return scaled.clip(0, 65535).astype(np.uint16)


def read_tiff(stream: BinaryIO) -> np.ndarray:
    """Return the levels of the first page of a TIFF file, as `read_levels` does."""
    with tifffile.TiffFile(stream) as file:
        page = file.pages[0]
        samples = page.asarray()
        if page.axes == "SYX":
            samples = samples.transpose(1, 2, 0)
        return _interpret(page, samples.reshape(page.imagelength, page.imagewidth, -1))


def _interpret(page: "tifffile.TiffPage", samples: np.ndarray) -> np.ndarray:
    raise NotImplementedError


__all__ = ["convert_levels", "read_levels", "read_tiff"]
