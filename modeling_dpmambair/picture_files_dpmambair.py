"""The one reader and the one writer of pictures: whatever holds a photograph becomes a `Picture`, and back.

| given | becomes |
|---|---|
| a file, as path, content or open file | its picture, if it is one of `FORMATS` |
| a PIL picture | what it shows |
| an array | a picture of 8 bits if it is uint8, of 16 if it is floating point in [0, 1] |
| orientation | applied; the metadata say upright |
| grey, of 1 to 16 bits | grey: restored it has no tint, and one channel is written |
| palette, YCbCr, HSV | RGB |
| CMYK, L*a*b* | RGB, by the profile if there is one |
| 9 to 16 bits, of JPEG 2000, PNG, PPM and TIFF | 16 bits; floats hold them exactly |
| transparency, a transparent colour | `alpha`, not laid on anything |
| EXIF, XMP, resolution, text, an ICC profile of grey or RGB | `metadata`; EXIF that cannot be read is left out |
| an animation (AVIF, GIF, PNG, WebP) | its first frame, with the others in `later` |
| WebP that lost detail | `is_lossy`, so that it is written alike |
| a multi-picture JPEG or HEIC file | its first picture; previews and depth maps follow |
| a TIFF file of several pages | an error, unless all but one are thumbnails or masks |
"""

import os
import stat
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias
from uuid import uuid4

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .picture_dpmambair import Picture, check_layout, read_values
from .picture_encoding_dpmambair import ANIMATED, encode_picture
from .picture_errors_dpmambair import PictureError, check_size, one_line_errors
from .picture_levels_dpmambair import convert_levels, is_lossy_webp, read_levels, read_png_depth
from .picture_metadata_dpmambair import read_exif, read_metadata, read_orientation, read_tiff_metadata
from .picture_tiff_dpmambair import open_page, read_page, read_tags, tifffile

try:
    import pillow_heif

    pillow_heif.register_heif_opener()
except ImportError:
    pillow_heif = None

# A closed list, because Pillow also opens formats that run other programs (EPS) or hold no photographs (PDF, WMF).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", *(["HEIF"] if pillow_heif else []))
# Those with more than 8 bits of which Pillow would keep 8.
DEEP = ("JPEG2000", "PNG", "PPM", "TIFF")
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SYNONYMS = {"DIB": "BMP", "HEIC": "HEIF", "JP2": "JPEG2000", "JPG": "JPEG", "MPO": "JPEG", "TIF": "TIFF"}
# The orientation that turns nothing.
UPRIGHT = 1
# A block of 8 x 8 pixels takes at least a bit of a JPEG file; libjpeg paints grey what a shorter one declares.
JPEG_PIXELS_PER_BYTE = 512

PictureSource: TypeAlias = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray | Picture


def list_suffixes() -> dict[str, str]:
    """Return the format that each suffix of a file stands for, the formats of missing packages among them."""
    known = Image.registered_extensions()
    return {suffix: known[suffix] for suffix in known if known[suffix] in FORMATS} | dict.fromkeys(
        HEIF_SUFFIXES, "HEIF"
    )


def read_picture(source: PictureSource, max_pixels: int | None = None) -> Picture:
    """Read a picture.

    Args:
        source: local file by its path, its content, or opened; PIL picture of any mode; array (H, W, 3), RGB, uint8 or
            float in [0, 1]; or a picture that was read, which is returned.
        max_pixels: how many pixels a file may declare, all frames together, before anything is decoded.

    Raises:
        TypeError: none of these.
        ValueError: an address, an array of another shape, pixel values without a known range, several pages, or more
            pixels than `max_pixels`.
        OSError: a file that is missing, damaged, no regular file or no picture.
        PIL.Image.DecompressionBombError: more pixels than Pillow's guard allows.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return _read_array(source)
    if isinstance(source, Image.Image):
        return _read_image(source)
    if isinstance(source, str | os.PathLike):
        _check_path(source)
        with open(source, "rb") as stream:
            return _read_stream(stream, source, max_pixels)
    if not isinstance(source, bytes) and not hasattr(source, "read"):
        raise TypeError(f"`image` must be a file, a PIL picture or an array, got {type(source).__name__}; convert it")
    if isinstance(source, bytes):
        source = BytesIO(source)
    elif not (hasattr(source, "seekable") and source.seekable()):
        source = BytesIO(source.read())
    return _read_stream(source, "other content", max_pixels)


def _check_path(path: str | os.PathLike) -> None:
    """Refuse what is no regular file before it is opened: a pipe would wait for its writer for ever."""
    if "://" in os.fspath(path):
        raise ValueError(f"`image` must be a local file, got {path}; download it first")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"`image` must be a regular file, got {path}, which is none; name a file")


def _read_array(array: np.ndarray) -> Picture:
    values = read_values(check_layout(array)).permute(2, 0, 1).contiguous()
    return Picture(values, bit_depth=16) if values.is_floating_point() else Picture(values / 255)


def _read_image(image: Image.Image) -> Picture:
    """Read what a caller's picture shows."""
    if image.format not in (None, "MPO", "DIB", *FORMATS):
        formats = ", ".join(FORMATS)
        raise PictureError(f"`image` must be in one of the formats {formats}, got {image.format}; convert it")
    # Pictures that are loaded, or were never a file, have no tiles left. The others Pillow would load with 8 bits.
    stream = image.fp if image.format in DEEP and getattr(image, "tile", None) and not image.tell() else None
    with one_line_errors():
        if stream is None:
            return _read_frame(image)
        position = stream.tell()
        try:
            return _read_frame(Image.open(stream, formats=[image.format]))
        finally:
            stream.seek(position)


def _read_frame(image: Image.Image) -> Picture:
    levels, exif = read_levels(image), read_exif(image)
    picture = _to_picture(levels, read_orientation(exif), image.format)
    read = read_tiff_metadata if image.format == "TIFF" else partial(read_metadata, image)
    return replace(picture, metadata=read(exif, picture.size, picture.is_grey))


def _to_picture(levels: np.ndarray, orientation: int, format: str | None) -> Picture:
    levels = _turn(levels, orientation)
    height, width, channels = levels.shape
    top, colours = np.iinfo(levels.dtype).max, 1 if channels < 3 else 3
    planes = torch.empty(channels, height, width)
    for place, plane in enumerate(planes):
        plane.numpy()[...] = levels[..., place]
    planes /= top
    alpha = planes[colours] if channels > colours else None
    pixels, bit_depth = planes[:colours].expand(3, -1, -1), 8 if top == 255 else 16
    return Picture(pixels, alpha, colours == 1, bit_depth, SYNONYMS.get(format, format))


def _turn(levels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn levels, (H, W, C), upright."""
    if orientation > 4:
        levels = levels.swapaxes(0, 1)
    rows, columns = (-1 if orientation in mirrored else 1 for mirrored in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return levels[::rows, ::columns]


def _read_stream(stream: BinaryIO, name: str | os.PathLike, max_pixels: int | None) -> Picture:
    with one_line_errors():
        stream.seek(0)
        head = stream.read(12)
        if head[:4] in TIFF_MAGIC and tifffile is not None:
            try:
                return _read_tiff(stream, max_pixels)
            except NotImplementedError:
                pass  # libtiff reads it
        image = _open(stream, name, head)
        frames = 1 if image.format in ("MPO", "HEIF") else getattr(image, "n_frames", 1)
        length, is_jpeg = _measure(stream), image.format in ("JPEG", "MPO")
        check_size(*image.size, frames, max_pixels, None if is_jpeg else length)
        if is_jpeg:
            _check_length(image, length)
        picture = _read_frame(image) if frames == 1 else _read_animation(image, frames)
        return replace(picture, is_lossy=_is_lossy(stream)) if image.format == "WEBP" else picture


def _is_lossy(stream: BinaryIO) -> bool:
    stream.seek(0)
    return is_lossy_webp(stream.read())


def _open(stream: BinaryIO, name: str | os.PathLike, head: bytes) -> Image.Image:
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        if head[4:8] == b"ftyp" and head[8:] in HEIF_BRANDS and pillow_heif is None:
            raise UnidentifiedImageError(f"{name} is a HEIC picture; pip install pillow-heif to read it") from error
        rule = f"a picture in one of the formats {', '.join(FORMATS)}"
        raise UnidentifiedImageError(f"`image` must be {rule}, got {name}; convert it") from error


def _measure(stream: BinaryIO) -> int:
    """Return the length of a file, bytes."""
    position, length = stream.tell(), stream.seek(0, os.SEEK_END)
    stream.seek(position)
    return length


def _check_length(image: Image.Image, length: int) -> None:
    """Refuse a JPEG file that cannot hold what it declares."""
    if image.width * image.height > JPEG_PIXELS_PER_BYTE * length:
        raise OSError(f"image file is damaged: {length} bytes cannot hold {image.width} x {image.height} pixels")


def _read_tiff(stream: BinaryIO, max_pixels: int | None) -> Picture:
    with open_page(stream) as page:
        check_size(page.imagewidth, page.imagelength, max_pixels=max_pixels, length=_measure(stream))
        tags = read_tags(stream, page)
        picture = _to_picture(read_page(page), read_orientation(tags), "TIFF")
        return replace(picture, metadata=read_tiff_metadata(tags, picture.size, picture.is_grey))


def _read_animation(image: Image.Image, count: int) -> Picture:
    """Read all frames, which Pillow does in 8 bits; of a TIFF file that it alone can read, they are pages."""
    if image.format not in ANIMATED:
        raise PictureError(f"`image` must have one page, got {count}; split it into its pages")
    if image.format == "PNG" and read_png_depth(image.fp) == 16:
        raise PictureError("`image` must have 8 bits per channel if it is an animation, got 16; convert it first")
    frames = []
    for position in range(count):
        image.seek(position)
        image.load()
        frame = _to_picture(convert_levels(image), UPRIGHT, image.format)
        frames.append(replace(frame, duration=image.info.get("duration") or 0))
    image.seek(0)
    metadata = read_metadata(image, read_exif(image), image.size, all(each.is_grey for each in frames))
    return replace(frames[0], metadata=metadata, later=tuple(frames[1:]))


def write_picture(
    picture: Picture,
    target: str | os.PathLike | BinaryIO,
    format: str | None = None,
    quality: int | None = None,
    keep_metadata: bool = True,
) -> None:
    """Write a picture, with the depth, channels, frames and metadata that the format holds.

    Args:
        picture: what to write.
        target: file to write, whole or not at all, by its path; or an open file.
        format: Pillow's name of a format, or a usual suffix; by default that of the suffix of `target`, of an open
            file the picture's own, or PNG.
        quality: 1 to 100, of AVIF, HEIF, JPEG and WebP; by default the best that is sensible, and WebP without loss
            unless the picture came as one with loss.
        keep_metadata: whether EXIF (with the place), XMP, resolution and text are written; a colour profile always is.

    Raises:
        ValueError: an unknown format or quality, or a format that does not hold the transparency or frames.
        OSError: the file cannot be written.
    """
    format = _find_format(picture, target, format)
    if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise ValueError(f"`quality` must be a whole number from 1 to 100, got {quality!r}; leave it out for the best")
    content = encode_picture(picture, format, quality, keep_metadata)
    if hasattr(target, "write"):
        target.write(content)
        return
    path = Path(target)
    temporary = path.with_name(f".{uuid4().hex}.part")  # not the target's name, which may be as long as names can be
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _find_format(picture: Picture, target: str | os.PathLike | BinaryIO, format: str | None) -> str:
    suffixes = list_suffixes()
    if format is None and not hasattr(target, "write"):
        suffix = Path(target).suffix.lower()
        if suffix not in suffixes:
            raise ValueError(f"`target` must end in one of {' '.join(suffixes)}, got {target}; give its format")
        format = suffixes[suffix]
    found = (format or picture.format or "PNG").upper()
    found = SYNONYMS.get(found, found)
    if found not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format or found}; choose one")
    return found


__all__ = ["FORMATS", "Picture", "PictureSource", "list_suffixes", "read_picture", "write_picture"]
