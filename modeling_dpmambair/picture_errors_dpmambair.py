"""What is wrong with a picture's file, in one line, whatever its decoder raises."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

# Pixels that each frame of an animation counts for at the least: to restore a smaller one hardly takes less.
SMALLEST_FRAME = 256**2
# More pixels to a byte than of any photograph: deflate packs half as many blank ones of 8 bits. Pictures of no more
# pixels than the second number may be blank, whatever packed them.
PIXELS_PER_BYTE, SMALL = 2048, 2**20


class PictureError(ValueError):
    """A picture that is sound but cannot be restored; the text says why, and what to do."""


class TooManyPixelsError(PictureError):
    """A picture with more pixels than its reader was allowed."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn whatever decoders raise of damaged files, half a dozen unrelated types, into an `OSError` of one line."""
    try:
        yield
    except (PictureError, OSError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        raise OSError(f"image file is damaged: {' '.join(str(error).split()) or type(error).__name__}") from error


@contextmanager
def naming(source: Any) -> Iterator[None]:
    """Make the errors of reading a file name it, where they do not.

    Args:
        source: what is read; of what is no path there is nothing to name.
    """
    try:
        yield
    except (PictureError, OSError, Image.DecompressionBombError) as error:
        is_path = isinstance(source, str | os.PathLike)
        if not is_path or os.fspath(source) in str(error) or getattr(error, "filename", None):
            raise
        raise type(error)(f"{os.fspath(source)}: {error}") from error


def check_size(
    width: int, height: int, frames: int = 1, max_pixels: int | None = None, length: int | None = None
) -> None:
    """Refuse a picture that is too large by its header, before memory is spent on it.

    Args:
        width: in pixels.
        height: likewise.
        frames: how many of them there are.
        max_pixels: the caller's limit on all frames together; None for Pillow's guard alone.
        length: of the file, bytes, if there is one.

    Raises:
        TooManyPixelsError: more pixels than the caller allows.
        PIL.Image.DecompressionBombError: more than Pillow's guard allows, of an animation half as many; or far more
            than the file can tell of.
    """
    pixels, size = width * height * frames, f"{width} x {height}" + (f" x {frames} frames" if frames > 1 else "")
    if max_pixels is not None and pixels > max_pixels:
        raise TooManyPixelsError(f"`image` must have at most {max_pixels} pixels, got {size}; make it smaller")
    guard = Image.MAX_IMAGE_PIXELS
    counted = max(pixels, SMALLEST_FRAME * frames) if frames > 1 else pixels
    if guard is not None and counted > (guard if frames > 1 else 2 * guard):
        raise Image.DecompressionBombError(f"{size} pixels could be a decompression bomb; restore a smaller picture")
    if length is not None and pixels > max(SMALL, PIXELS_PER_BYTE * length):
        found = f"{size} pixels in {length} bytes"
        raise Image.DecompressionBombError(f"{found} could be a decompression bomb; restore a smaller picture")


__all__ = ["PictureError", "TooManyPixelsError", "check_size", "naming", "one_line_errors"]
