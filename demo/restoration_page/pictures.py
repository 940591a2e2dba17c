"""Visitors' pictures: which ones the page takes, and what it says of the others."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, UnidentifiedImageError

# Of what the pipeline reads, what browsers upload.
UPLOAD_FORMATS = ("AVIF", "BMP", "JPEG", "PNG", "TIFF", "WEBP")
# Phones take 12 megapixels; beyond this, one visitor would hold a free machine for too long.
MAX_MEGAPIXELS = 16
MAX_FILE_SIZE = "40mb"
# Seconds: what is older is deleted, files as well as what is remembered, and is looked for this often.
LIFETIME, SWEEP = 3600, 600
DAMAGED = "This picture is damaged and cannot be read to its end."


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


# The pipeline's own, with all that a file holds; its class comes with the model.
Picture: TypeAlias = Any


def read_upload(data: bytes, read_picture: Callable[[bytes], Picture]) -> Picture:
    """Read a picture, after a look at its header that spends no memory on what is too large.

    Args:
        data: a file's content.
        read_picture: the pipeline's own reader.

    Returns:
        The picture upright, with its depth, its alpha channel and its metadata.

    Raises:
        UnusablePictureError: no picture, a damaged one, one of an unusual kind, or one that is too large.
    """
    megapixels = None
    try:
        with Image.open(io.BytesIO(data), formats=UPLOAD_FORMATS) as picture:
            megapixels = picture.width * picture.height / 1e6
        if megapixels <= MAX_MEGAPIXELS:
            return read_picture(data).check_still()
        reason = _too_large(f"{megapixels:.1f}")
    except Image.DecompressionBombError:
        # Of a size that the page takes, the file has far too few bytes.
        reason = _too_large("far too many") if megapixels is None else DAMAGED
    except UnidentifiedImageError:
        formats = ", ".join(UPLOAD_FORMATS)
        reason = f"This file is not a picture that can be read here. Please choose one of {formats}."
    except ValueError as error:
        reason = f"This picture cannot be restored: {str(error).replace('`image`', 'it')}."
    except Exception:  # what decoders raise while only the header is read
        reason = DAMAGED
    raise UnusablePictureError(reason)


def _too_large(megapixels: str) -> str:
    return (
        f"This picture has {megapixels} megapixels, and this page takes up to {MAX_MEGAPIXELS}. "
        "Please make it smaller, or restore it on your own machine."
    )
