"""Pictures to the content of files: each format with the depth, channels, frames and metadata that it holds."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from .picture_dpmambair import Picture
from .picture_metadata_dpmambair import Metadata, save_options, tiff_tags
from .picture_tiff_dpmambair import encode_tiff

try:
    import imagecodecs
except ImportError:  # a stranger who has this file from the Hub
    imagecodecs = None

OPAQUE = ("BMP", "JPEG", "PPM")
ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")
# Of PNG files: for photographs Pillow's own level, 6, takes much longer and saves little.
PNG_LEVEL = 4
# Of what loses detail anyway: so much that nobody sees it. The others are written without loss.
QUALITY = {"AVIF": 90, "HEIF": 90, "JPEG": 95, "WEBP": 95}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_picture(picture: Picture, format: str, quality: int | None = None, keep_metadata: bool = True) -> bytes:
    """Return the content of a file.

    Args:
        picture: what to write.
        format: Pillow's name of a format.
        quality: 1 to 100; None for the best that is sensible: of WebP without loss, unless the picture came with it.
        keep_metadata: whether more metadata are written than the colour profile.

    Raises:
        ValueError: the format does not hold the picture's transparency or frames.
        OSError: its encoder fails.
    """
    if picture.alpha is not None and format in OPAQUE and not all(_is_opaque(each) for each in picture.frames):
        raise ValueError(
            f"`format` must hold transparency for this picture, got {format}; choose PNG, WEBP, AVIF or TIFF"
        )
    if picture.later and format not in ANIMATED:
        raise ValueError(f"`format` must be one of {', '.join(ANIMATED)} for an animation, got {format}; choose one")
    if format in OPAQUE:
        picture = replace(picture, alpha=None)
    metadata = picture.metadata
    if not keep_metadata:
        metadata = Metadata(icc_profile=metadata.icc_profile, loop=metadata.loop, has_default=metadata.has_default)
    if format == "TIFF":
        return encode_tiff(picture.levels(picture.bit_depth), tiff_tags(metadata))
    if picture.bit_depth == 16 and format == "PNG" and not picture.later:
        return _encode_deep_png(picture.levels(16), metadata)
    if picture.bit_depth == 16 and format == "JPEG2000":
        return _find_codec().jpeg2k_encode(picture.levels(16), level=0, codecformat="jp2", reversible=True)
    if picture.bit_depth == 16 and format == "PPM":
        return _encode_deep_ppm(picture.levels(16))
    return _encode_by_pillow(picture, format, quality, metadata)


def _is_opaque(picture: Picture) -> bool:
    return picture.alpha is None or bool((picture.alpha == 1).all())


def _encode_by_pillow(picture: Picture, format: str, quality: int | None, metadata: Metadata) -> bytes:
    images = [each.image for each in picture.frames]
    options = save_options(metadata, format) | _pixel_options(picture, format, quality)
    if format == "GIF":
        images = [_to_palette(image) for image in images]
    if picture.later:
        images = _to_one_mode(images)
        options |= _animation_options(picture, format, metadata) | {"append_images": images[1:]}
    content = BytesIO()
    try:
        images[0].save(content, format, **options)
    except RuntimeError as error:  # of WebP's animations, such as too wide ones
        raise OSError(f"cannot write {format}: {error}") from error
    return content.getvalue()


def _pixel_options(picture: Picture, format: str, quality: int | None) -> dict[str, Any]:
    if format == "PNG":
        return {"compress_level": PNG_LEVEL}
    if format == "WEBP" and quality is None and not picture.is_lossy:
        return {"lossless": True, "exact": True}
    if format not in QUALITY:
        return {}
    options: dict[str, Any] = {"quality": QUALITY[format] if quality is None else quality}
    # Colours as sharp as the restorer left them; HEIF as phones write it, since their decoders may know no other.
    return options | ({"subsampling": "4:4:4"} if format in ("AVIF", "JPEG") else {})


def _to_palette(image: Image.Image) -> Image.Image:
    """Return a picture of up to 256 colours, exact if it has no more; Pillow's own conversion is not.

    Raises:
        ValueError: a pixel is partly transparent.
    """
    has_alpha = image.mode in ("LA", "RGBA")
    colours = image.convert("RGB").quantize(256 - has_alpha, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    if not has_alpha:
        return colours
    alpha = np.asarray(image.getchannel("A"))
    if ((alpha > 0) & (alpha < 255)).any():
        raise ValueError("`format` must hold partial transparency for this picture, got GIF; choose PNG or WEBP")
    shown = Image.fromarray(np.where(alpha == 0, 255, np.asarray(colours)).astype(np.uint8))
    shown.putpalette(colours.getpalette() or [])
    shown.info["transparency"] = 255
    return shown


def _to_one_mode(images: Sequence[Image.Image]) -> list[Image.Image]:
    modes = {image.mode for image in images}
    wanted = "RGBA" if modes & {"LA", "RGBA"} else "RGB"
    return [image.convert(wanted) for image in images] if len(modes) > 1 else list(images)


def _animation_options(picture: Picture, format: str, metadata: Metadata) -> dict[str, Any]:
    durations = [round(each.duration) for each in picture.frames]
    options: dict[str, Any] = {"save_all": True, "duration": durations}
    if metadata.loop is not None:
        options["loop"] = metadata.loop
    if format == "GIF" and any(each.alpha is not None for each in picture.frames):
        options["disposal"] = 2  # clear each frame, whose holes would show the one before
    if format == "PNG" and metadata.has_default:
        options |= {"default_image": True, "duration": durations[1:]}
    return options


def _encode_deep_png(levels: np.ndarray, metadata: Metadata) -> bytes:
    """Return a PNG file by imagecodecs, with the metadata that Pillow writes into another one."""
    content = BytesIO()
    Image.new("L", (1, 1)).save(content, "PNG", **save_options(metadata, "PNG"))
    said = [chunk for chunk in _split_png(content.getvalue()) if chunk[4:8] not in (b"IHDR", b"IDAT", b"IEND")]
    header, *pixels = _split_png(_find_codec().png_encode(levels, PNG_LEVEL))
    return b"".join([PNG_SIGNATURE, header, *said, *pixels])


def _find_codec() -> ModuleType:
    if imagecodecs is None:
        raise OSError("pictures of 16 bits need imagecodecs; pip install imagecodecs")
    return imagecodecs


def _split_png(content: bytes) -> Iterator[bytes]:
    place = len(PNG_SIGNATURE)
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        yield content[place : place + length + 12]
        place += length + 12


def _encode_deep_ppm(levels: np.ndarray) -> bytes:
    height, width, channels = levels.shape
    magic = "P5" if channels == 1 else "P6"
    return f"{magic}\n{width} {height}\n65535\n".encode() + levels.astype(">u2").tobytes()


__all__ = ["encode_picture"]
