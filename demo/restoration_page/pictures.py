"""Visitors' pictures: which ones the page takes, and what it says of the others."""

import io
import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# What browsers upload. A closed list, because Pillow also opens formats that run other programs (EPS).
FORMATS = ("AVIF", "BMP", "JPEG", "PNG", "TIFF", "WEBP")
# Phones take 12 megapixels; beyond this, one visitor would hold a free machine for too long.
MAX_MEGAPIXELS = 16
MAX_FILE_SIZE = "40mb"


class UnusablePictureError(ValueError):
    """A file that cannot be restored here; the text is for the visitor."""


def read_file(path: str | os.PathLike) -> bytes:
    """Read an uploaded file.

    Raises:
        UnusablePictureError: the file is gone.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UnusablePictureError("This picture is no longer on the server. Please choose it again.") from error


def read_picture(data: bytes) -> Image.Image:
    """Decode a picture, after a look at its header that spends no memory on what is too large.

    Args:
        data: a file's content.

    Returns:
        The picture as it was stored, with its orientation and colour profile in its metadata.

    Raises:
        UnusablePictureError: no picture, a damaged one, one of an unusual kind, or one that is too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check(picture)
            picture.load()
            return picture
    except UnusablePictureError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePictureError(_too_large("far too many")) from error
    except UnidentifiedImageError as error:
        raise UnusablePictureError(
            f"This file is not a picture that can be read here. Please choose one of {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # damage surfaces in Pillow as one of half a dozen unrelated types
        raise UnusablePictureError("This picture is damaged and cannot be read to its end.") from error


def count_megapixels(picture: Image.Image) -> float:
    """Return the number of pixels in millions."""
    return picture.width * picture.height / 1e6


def colour_profile(picture: Image.Image) -> bytes | None:
    """Return the ICC profile that still holds once the picture is RGB, if there is one."""
    return picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA", "P") else None


def _check(picture: Image.Image) -> None:
    if count_megapixels(picture) > MAX_MEGAPIXELS:
        raise UnusablePictureError(_too_large(f"{count_megapixels(picture):.1f}"))
    # Multi-picture JPEGs of phones and cameras hold the photograph first, then previews and depth maps.
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise UnusablePictureError("This file holds several pictures. Please choose a single one.")
    if picture.mode in ("I", "F"):
        raise UnusablePictureError("This picture does not have 8 or 16 bits per channel. Please convert it first.")


def _too_large(megapixels: str) -> str:
    return (
        f"This picture has {megapixels} megapixels, and this page takes up to {MAX_MEGAPIXELS}. "
        "Please make it smaller, or restore it on your own machine."
    )
