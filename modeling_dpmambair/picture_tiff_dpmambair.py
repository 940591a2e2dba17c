"""TIFF files of every kind that photographs and scans come in, to levels, and back with 8 or 16 bits.

| photometric interpretation | becomes |
|---|---|
| WhiteIsZero, BlackIsZero, of 1 to 16 bits | grey; of 1 to 8 bits 8, of more 16 |
| RGB of 1 to 16 bits | RGB of 8 or 16 bits |
| palette | RGB, 8 bits |
| YCbCr, subsampled or not | RGB, 8 bits |
| CMYK, with its profile or without | RGB (sRGB), 8 bits |
| CIE L*a*b*, ICC L*a*b* | RGB (sRGB), 8 bits |
| others (raw, LogLuv, masks), and other numbers than these | an error |

An extra sample that is alpha is kept, divided out of the colours where it is associated; others are left out.
"""

import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .picture_colours_dpmambair import divide_alpha, scale_levels, to_srgb
from .picture_errors_dpmambair import PictureError

try:
    import tifffile
except ImportError:  # a stranger who has this file from the Hub
    tifffile = None

# What it says of damaged files goes to whoever listens, not to stderr: the caller gets an error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# Values of TIFF's tags.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
# Samples of colour.
CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}
UNCOMPRESSED, JPEG, DEFLATE = 1, 7, 8
PLANES, HORIZONTAL = 2, 2
ASSOCIATED, UNASSOCIATED, COREL = 1, 2, 999
INK_SET, SUBSAMPLING, DNG_VERSION = 332, 530, 50706
# More pages and samples than photographs and scans have. Those of a hostile file may follow each other round and
# round, or be so many that they fill the memory.
MOST_PAGES, MOST_SAMPLES = 100, 8
# Compressions whose size follows from the page; in others, as in JPEG, each strip declares one of its own.
SIZED = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
# Bytes of a strip before compression, and how hard it is compressed: more takes much longer and saves little.
STRIP_BYTES, LEVEL = 2**18, 4
# Of a JPEG strip, within which its size stands.
JPEG_HEAD = 2**16


@contextmanager
def open_page(stream: BinaryIO, number: int | None = None) -> "Iterator[tifffile.TiffPage]":
    """Give a page of a TIFF file.

    Args:
        stream: the file.
        number: position of the page; by default the only one of full size.

    Raises:
        PictureError: several pages, or one whose pixels are none of a photograph.
    """
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page = _find_page(file) if number is None else file.pages[number]
        _check_page(page)
        _check_segments(page)
        yield page


def read_page(page: "tifffile.TiffPage") -> np.ndarray:
    """Return the levels of a page.

    Returns:
        Levels, (H, W, C), uint8 or uint16, not yet turned by the orientation. C is 1 (grey), 2 (grey and alpha), 3
        (RGB) or 4 (RGB and alpha).

    Raises:
        NotImplementedError: old-style JPEG, or subsampled YCbCr that is compressed; libtiff reads them.
    """
    samples = _read_subsampled(page) if _is_subsampled(page) else page.asarray(maxworkers=1)
    if page.planarconfig == PLANES and page.samplesperpixel > 1:
        samples = np.moveaxis(samples, 0, -1)
    return _interpret(page, samples.reshape(page.imagelength, page.imagewidth, -1))


def read_tags(stream: BinaryIO, page: "tifffile.TiffPage") -> Image.Exif:
    """Return all tags of a page; none where they are damaged, which the pixels need not be."""
    tags = Image.Exif()
    tags.endian, tags.bigtiff = page.parent.byteorder, page.parent.is_bigtiff
    try:
        tags.load_from_fp(stream, page.offset)
    except Exception:  # Pillow raises half a dozen unrelated types
        return Image.Exif()
    return tags


def _find_page(file: "tifffile.TiffFile") -> "tifffile.TiffPage":
    """Return the only page of full size: thumbnails and masks may stand beside it."""
    pages = islice(file.pages, MOST_PAGES)
    whole = [each for each in pages if not (each.is_reduced or each.is_mask)]
    if len(whole) > 1:
        raise PictureError(f"`image` must have one page, got {len(whole)}; split it into its pages")
    return whole[0] if whole else file.pages.first


def _check_page(page: "tifffile.TiffPage") -> None:
    kind = page.photometric
    if kind not in CHANNELS or DNG_VERSION in page.tags:
        name = "raw" if DNG_VERSION in page.tags else getattr(kind, "name", kind)
        raise PictureError(f"`image` must be grey, RGB, palette, YCbCr, CMYK or L*a*b*, got {name}; convert it")
    bits = page.bitspersample
    if not isinstance(bits, int) or bits > 16 or page.sampleformat != 1 or page.imagedepth != 1:
        found = page.dtype or f"{bits} bits"
        raise PictureError(f"`image` must have 8 or 16 bits per channel, got {found}; convert it first")
    inks = page.tags.valueof(INK_SET, 1)
    if not CHANNELS[kind] <= page.samplesperpixel <= MOST_SAMPLES or (kind == SEPARATED and inks != 1):
        found = f"{page.samplesperpixel} samples of {kind.name}"
        raise PictureError(f"`image` must have all channels of its colours, or be CMYK, got {found}; convert it")


def _check_segments(page: "tifffile.TiffPage") -> None:
    """Refuse a page that declares more strips or tiles than it has, for which tifffile would put zeros.

    Those that are pictures of their own must not declare to be larger than the page's, before they are decoded.
    """
    if len(page.dataoffsets) < math.prod(page.chunked) or 0 in page.databytecounts:
        raise OSError("image file is truncated: strips or tiles are missing")
    if page.compression == JPEG:
        rows, columns = min(page.rowsperstrip, page.imagelength), page.imagewidth
        if page.is_tiled:
            rows, columns = page.tilelength, page.tilewidth
        for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            page.parent.filehandle.seek(offset)
            head = BytesIO(page.parent.filehandle.read(min(length, JPEG_HEAD)))
            try:
                with Image.open(head, formats=["JPEG"]) as segment:
                    width, height = segment.size
            except UnidentifiedImageError as error:
                raise OSError("image file is damaged: a strip or tile is no JPEG picture") from error
            if width > columns or height > rows:
                raise OSError("image file is damaged: a strip or tile is larger than the page declares")
    elif page.compression not in SIZED:
        raise NotImplementedError(f"compression {page.compression}")


def _is_subsampled(page: "tifffile.TiffPage") -> bool:
    is_plain = page.photometric == YCBCR and page.compression == UNCOMPRESSED
    return is_plain and tuple(page.tags.valueof(SUBSAMPLING, (2, 2))) != (1, 1)


def _read_subsampled(page: "tifffile.TiffPage") -> np.ndarray:
    """Return Y, Cb and Cr of an uncompressed page, which stores (columns x rows) of Y before one Cb and one Cr."""
    columns, rows = page.tags.valueof(SUBSAMPLING, (2, 2))
    if page.is_tiled or page.planarconfig == PLANES:
        raise NotImplementedError("subsampled YCbCr in tiles or planes")
    wide = -(-page.imagewidth // columns)
    strips = []
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        page.parent.filehandle.seek(offset)
        units = np.frombuffer(page.parent.filehandle.read(count), np.uint8).reshape(-1, wide, rows * columns + 2)
        luma = units[..., :-2].reshape(len(units), wide, rows, columns).swapaxes(1, 2)
        luma = luma.reshape(len(units) * rows, wide * columns, 1)
        chroma = units[..., -2:].repeat(rows, 0).repeat(columns, 1)
        strips.append(np.concatenate([luma, chroma], -1)[: page.rowsperstrip])
    return np.concatenate(strips)[: page.imagelength, : page.imagewidth]


def _interpret(page: "tifffile.TiffPage", samples: np.ndarray) -> np.ndarray:
    kind, count = page.photometric, CHANNELS[page.photometric]
    colours, extra = samples[..., :count], samples[..., count:]
    if kind == PALETTE:
        colours = _look_up(page.colormap, colours[..., 0])
    elif kind in (BLACK_IS_ZERO, WHITE_IS_ZERO, RGB):
        colours = scale_levels(colours, page.bitspersample)
        colours = np.invert(colours) if kind == WHITE_IS_ZERO else colours
    elif kind != YCBCR or page.compression != JPEG:  # of JPEG the decoder has made RGB
        colours = _convert(page, colours)
    hidden = _find_alpha(page, extra.shape[2])
    if hidden is None:
        return colours
    alpha = scale_levels(extra[..., hidden : hidden + 1], page.bitspersample)
    if colours.dtype != alpha.dtype:
        alpha = (alpha >> 8).astype(np.uint8)
    levels = np.concatenate([colours, alpha], -1)
    return divide_alpha(levels) if page.extrasamples and page.extrasamples[hidden] == ASSOCIATED else levels


def _look_up(colormap: np.ndarray, indices: np.ndarray) -> np.ndarray:
    # Some writers put levels of 8 bits where the standard wants 16.
    colours = colormap if colormap.max() < 256 else colormap >> 8
    return colours.T.astype(np.uint8)[indices.astype(np.intp)]


def _convert(page: "tifffile.TiffPage", samples: np.ndarray) -> np.ndarray:
    """Return the RGB levels of YCbCr, CMYK or L*a*b*."""
    if page.bitspersample == 16:
        samples = samples >> 8
    samples = np.ascontiguousarray(samples.astype(np.uint8))
    if page.photometric == ICCLAB:
        samples[..., 1:] ^= 128  # its a* and b* have an offset; those of CIELAB, and Pillow's, are signed
    if page.photometric == YCBCR:
        return np.asarray(Image.fromarray(samples, "YCbCr").convert("RGB"))
    image = Image.fromarray(samples, "CMYK" if page.photometric == SEPARATED else "LAB")
    return np.asarray(to_srgb(image, page.iccprofile))


def _find_alpha(page: "tifffile.TiffPage", count: int) -> int | None:
    """Return the position of alpha among extra samples; without a word on them the first is."""
    kinds = page.extrasamples
    if not kinds:
        return 0 if count else None
    return next((place for place, kind in enumerate(kinds[:count]) if kind in (ASSOCIATED, UNASSOCIATED, COREL)), None)


def encode_tiff(levels: np.ndarray, tags: dict[int, object]) -> bytes:
    """Return the content of a TIFF file, compressed without loss.

    Args:
        levels: (H, W, C), uint8 or uint16: grey or RGB, then alpha if there is any.
        tags: what else to say of the picture, by the numbers of its tags; a dictionary is a directory of its own.
    """
    height, width, channels = levels.shape
    rows = max(STRIP_BYTES // (width * channels * levels.itemsize), 1)
    strips = list(_compress(levels, rows))
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in tags.items():
        directory[tag] = value
    directory[256], directory[257], directory[258] = width, height, (8 * levels.itemsize,) * channels
    directory[259], directory[317] = DEFLATE, HORIZONTAL
    directory[262], directory[277] = RGB if channels > 2 else BLACK_IS_ZERO, channels
    if channels in (2, 4):
        directory[338] = UNASSOCIATED
    lengths = [len(strip) for strip in strips]
    directory[278], directory[279] = rows, tuple(lengths)
    directory[273] = tuple(np.cumsum([0, *lengths[:-1]]).tolist())  # the directory adds its own length
    content = BytesIO()
    directory.save(content)
    content.writelines(strips)
    return content.getvalue()


def _compress(levels: np.ndarray, rows: int) -> Iterator[bytes]:
    little = levels.astype(levels.dtype.newbyteorder("<"), copy=False)
    for top in range(0, len(levels), rows):
        differences = np.diff(little[top : top + rows], axis=1, prepend=little.dtype.type(0))
        yield zlib.compress(differences.astype(little.dtype).tobytes(), LEVEL)


__all__ = ["encode_tiff", "open_page", "read_page", "read_tags"]
