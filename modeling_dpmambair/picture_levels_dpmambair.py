"""The levels of opened pictures as other programs show them: grey or RGB, with alpha or without, 8 or 16 bits.

Pillow decodes what has up to 8 bits a channel. It holds no colour of more, of which it keeps the high bytes, and knows
few kinds of TIFF: those are read here by imagecodecs (PNG, JPEG 2000) and tifffile, or by hand (PPM).
"""

import re
import struct
from typing import BinaryIO

import numpy as np
from PIL import Image

from .picture_colours_dpmambair import divide_alpha, scale_levels, to_srgb
from .picture_errors_dpmambair import PictureError
from .picture_tiff_dpmambair import open_page, read_page, tifffile

try:
    import imagecodecs
except ImportError:  # a stranger who has this file from the Hub
    imagecodecs = None

# Where a PNG file says how many bits its channels have.
PNG_DEPTH = 24
# The first two markers of a JPEG 2000 codestream, where the depth is behind them, and how far to look for them.
JPEG2000_SIZ, JPEG2000_DEPTH, JPEG2000_HEADER = b"\xff\x4f\xff\x51", 42, 2**20
BITS_PER_SAMPLE = 258
# Bytes of what stands before a WebP file's chunks, before a chunk's content, and before the chunks of a frame.
WEBP_HEADER, CHUNK_HEADER, WEBP_FRAME = 12, 8, 16


def read_levels(image: Image.Image) -> np.ndarray:
    """Return the levels of a picture, which is loaded unless its file is read here.

    Args:
        image: of any mode, as Pillow opened it.

    Returns:
        Levels, (H, W, C), uint8 or uint16, turned as the picture is afterwards. C is 1 (grey), 2 (grey and alpha), 3
        (RGB) or 4 (RGB and alpha).

    Raises:
        PictureError: pixels that are none of a photograph.
        OSError: a package is missing that reads them.
    """
    # Pictures that are loaded, or were never a file, have no tiles left.
    if getattr(image, "tile", None) and not image.tell():
        position = image.fp.tell()
        if (levels := _read_deep(image, image.fp)) is not None:
            return levels
        image.fp.seek(position)
    image.load()
    return convert_levels(image)


def _read_deep(image: Image.Image, stream: BinaryIO) -> np.ndarray | None:
    """Read the file of a picture to which Pillow would not do justice; None if it does."""
    if image.format == "TIFF":
        return _read_tiff(image, stream)
    if image.format == "PNG":
        depth = read_png_depth(stream)
        # Of less than 8 bits, Pillow looks for the transparent level among levels of 8.
        if depth == 16 or (depth < 8 and image.mode == "L" and "transparency" in image.info):
            return _decode("png_decode", stream)
    if image.format == "JPEG2000" and image.mode in ("I;16", "LA", "RGB", "RGBA"):
        stream.seek(0)
        if (depth := _find_jpeg2000_depth(stream.read(JPEG2000_HEADER))) > 8:
            return scale_levels(_decode("jpeg2k_decode", stream), depth)
    if image.format == "PPM" and image.mode == "RGB" and isinstance(image.tile[0].args, tuple):
        return _read_deep_ppm(image, stream)
    return None


def _read_tiff(image: Image.Image, stream: BinaryIO) -> np.ndarray | None:
    if tifffile is None:
        if max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8:
            raise OSError("16-bit TIFF needs tifffile and imagecodecs; pip install tifffile imagecodecs")
        return None
    try:
        with open_page(stream, 0) as page:
            return read_page(page)
    except NotImplementedError:
        return None


def read_png_depth(stream: BinaryIO) -> int:
    """Return how many bits the channels of a PNG file have; the stream is left where it was."""
    position = stream.tell()
    stream.seek(PNG_DEPTH)
    (depth,) = stream.read(1)
    stream.seek(position)
    return depth


def is_lossy_webp(content: bytes) -> bool:
    """Tell whether a WebP file holds a picture, or a frame, that was encoded with loss, from its chunks."""
    place, end = WEBP_HEADER, len(content)
    while place + CHUNK_HEADER <= end:
        name, length = struct.unpack_from("<4sI", content, place)
        if name == b"VP8 ":
            return True
        # A frame of an animation holds chunks after a header of its own.
        place += CHUNK_HEADER + (WEBP_FRAME if name == b"ANMF" else length + length % 2)
    return False


def _find_jpeg2000_depth(header: bytes) -> int:
    """Return the bits of the first channel: the SIZ segment, which begins the codestream, tells them."""
    start = header.find(JPEG2000_SIZ)
    return 8 if start < 0 else (header[start + JPEG2000_DEPTH] & 127) + 1


def _decode(codec: str, stream: BinaryIO) -> np.ndarray:
    if imagecodecs is None:
        raise OSError("pictures of 16 bits need imagecodecs; pip install imagecodecs")
    stream.seek(0)
    levels = getattr(imagecodecs, codec)(stream.read())
    return levels.reshape(*levels.shape[:2], -1)


def _read_deep_ppm(image: Image.Image, stream: BinaryIO) -> np.ndarray:
    """Return RGB levels of any maximum: as 16 bits above 255, otherwise as 8."""
    name, _, start, (_, highest) = image.tile[0]
    stream.seek(start)
    content, count = stream.read(), 3 * image.width * image.height
    if name == "ppm_plain":
        values = np.array(re.sub(rb"#[^\r\n]*", b" ", content).split()[:count], np.uint16)
    else:
        values = np.frombuffer(content, ">u2" if highest > 255 else np.uint8, count)
    dtype = np.uint16 if highest > 255 else np.uint8
    levels = np.rint(values.clip(max=highest) * (np.iinfo(dtype).max / highest)).astype(dtype)
    return levels.reshape(image.height, image.width, 3)


def convert_levels(image: Image.Image) -> np.ndarray:
    """Return the levels of a loaded picture of any mode, as `read_levels` does."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _convert_deep_grey(image)
    if image.mode in ("I", "F"):
        raise PictureError(f"`image` must have 8 or 16 bits per channel, got mode {image.mode}; convert it first")
    if image.mode in ("La", "RGBa"):
        return divide_alpha(np.asarray(image).reshape(image.height, image.width, -1))
    if image.mode in ("CMYK", "LAB"):
        image = to_srgb(image, image.info.get("icc_profile"))
    colours = "L" if image.mode in ("1", "L", "LA") else "RGB"
    wanted = colours + "A" * image.has_transparency_data
    levels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return levels.reshape(image.height, image.width, -1)


def _convert_deep_grey(image: Image.Image) -> np.ndarray:
    levels = np.asarray(image).astype(np.uint16)[..., None]
    hidden = image.info.get("transparency")
    if hidden is None:
        return levels
    return np.concatenate([levels, np.where(levels == hidden, 0, 65535).astype(np.uint16)], -1)


__all__ = ["convert_levels", "read_levels", "read_png_depth"]
