"""Paired geometric transforms: parameters are drawn apart from being applied, so both pictures of a pair get the same.

Pictures are NumPy arrays (H, W, 3). Flips, turns and crops return views: nothing is copied before a patch is cut out.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class Orientation:
    """One of the eight symmetries of the square.

    Attributes:
        flip: mirror left and right, before turning.
        quarter_turns: counter-clockwise turns of 90 degrees, 0 to 3.
    """

    flip: bool
    quarter_turns: int


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, in pixels.

    Attributes:
        top: first row.
        left: first column.
        height: number of rows.
        width: number of columns.
    """

    top: int
    left: int
    height: int
    width: int


def sample_orientation(rng: np.random.Generator) -> Orientation:
    """Draw one of the eight flips and quarter turns, all equally likely.

    Args:
        rng: source of randomness; exactly one number is drawn.
    """
    flip, quarter_turns = divmod(int(rng.integers(8)), 4)
    return Orientation(bool(flip), quarter_turns)


def orient(image: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Flip and turn a picture.

    Args:
        image: (H, W, C).
        orientation: what to do.

    Returns:
        A view, (H, W, C) or (W, H, C).
    """
    mirrored = image[:, ::-1] if orientation.flip else image
    return np.rot90(mirrored, orientation.quarter_turns)


def unorient_window(window: Window, orientation: Orientation, height: int, width: int) -> Window:
    """Find where a window of an oriented picture lies in the picture as it was.

    Args:
        window: rectangle of the oriented picture.
        orientation: what was done.
        height: rows of the oriented picture.
        width: columns of the oriented picture.

    Returns:
        The rectangle whose crop, oriented, is the crop of the oriented picture.
    """
    for _ in range(orientation.quarter_turns):
        window = Window(window.left, height - window.top - window.height, window.width, window.height)
        height, width = width, height
    left = width - window.left - window.width if orientation.flip else window.left
    return Window(window.top, left, window.height, window.width)


def pad_to_patch(image: np.ndarray, patch_size: int) -> np.ndarray:
    """Reflect a picture at its lower and right border until a patch fits in it.

    Args:
        image: (H, W, C); H and W at least 1.
        patch_size: wanted side, pixels.

    Returns:
        `image` itself when it is large enough, else a copy (max(H, patch_size), max(W, patch_size), C).
    """
    height, width = image.shape[:2]
    if min(height, width) >= patch_size:
        return image
    missing = (max(patch_size - height, 0), max(patch_size - width, 0))
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")


def sample_window(height: int, width: int, patch_size: int, rng: np.random.Generator) -> Window:
    """Draw where a square patch lies, uniformly over all its positions inside the picture.

    Args:
        height: rows of the picture, at least `patch_size`.
        width: columns of the picture, at least `patch_size`.
        patch_size: side of the patch, pixels.
        rng: source of randomness; exactly two numbers are drawn.

    Raises:
        ValueError: the patch is larger than the picture.
    """
    if patch_size > min(height, width):
        raise ValueError(
            f"`patch_size` must be at most the picture's shorter side {min(height, width)}, got {patch_size}; "
            "pad the picture first (pad_to_patch)"
        )
    top = int(rng.integers(height - patch_size + 1))
    left = int(rng.integers(width - patch_size + 1))
    return Window(top, left, patch_size, patch_size)


def grow_window(window: Window, margin: int, height: int, width: int, step: int = 1) -> Window:
    """Widen a window by a margin on each side, on a grid, and clip it to the picture.

    Args:
        window: the rectangle to surround.
        margin: pixels to add on each side, at least.
        height: rows of the picture.
        width: columns of the picture.
        step: the grown window begins at multiples of this many pixels, for degradations that work in blocks.
    """
    top = max(window.top - margin, 0) // step * step
    left = max(window.left - margin, 0) // step * step
    bottom = min(-(-(window.top + window.height + margin) // step) * step, height)
    right = min(-(-(window.left + window.width + margin) // step) * step, width)
    return Window(top, left, bottom - top, right - left)


def center_window(height: int, width: int, max_height: int, max_width: int) -> Window:
    """Return the middle of a picture, at most so large.

    Args:
        height: rows of the picture.
        width: columns of the picture.
        max_height: most rows of the window.
        max_width: most columns of the window.
    """
    rows, columns = min(height, max_height), min(width, max_width)
    return Window((height - rows) // 2, (width - columns) // 2, rows, columns)


def crop(image: np.ndarray, window: Window) -> np.ndarray:
    """Cut a window out of a picture.

    Args:
        image: (H, W, C).
        window: the rectangle, inside the picture.

    Returns:
        A view, (window.height, window.width, C).
    """
    return image[window.top : window.top + window.height, window.left : window.left + window.width]


def to_float(image: np.ndarray) -> np.ndarray:
    """Scale an 8-bit picture to [0, 1].

    Args:
        image: (H, W, C) uint8.

    Returns:
        (H, W, C) float32 in [0, 1], contiguous.
    """
    return np.divide(image, np.float32(255), dtype=np.float32, order="C")


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turn a picture into the tensor that models take.

    Args:
        image: (H, W, 3) float32, RGB in [0, 1].

    Returns:
        (3, H, W) float32 in [0, 1], contiguous, with memory of its own.
    """
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


class Readable(Protocol):
    """A picture of which rectangles are read, (window.height, window.width, 3) uint8, RGB."""

    height: int
    width: int

    def read(self, window: Window) -> np.ndarray:
        """Read a rectangle."""


class OrientedPicture:
    """A picture as it is after flips, turns and padding, of which only parts are read.

    Args:
        picture: as stored.
        orientation: flip and turns.
        patch_size: side that it is padded to by reflection if it is smaller, pixels.
    """

    def __init__(self, picture: Readable, orientation: Orientation, patch_size: int) -> None:
        self._picture, self._orientation, self._patch_size = picture, orientation, patch_size
        height, width = picture.height, picture.width
        self._inner = (width, height) if orientation.quarter_turns % 2 else (height, width)
        self.height, self.width = (max(side, patch_size) for side in self._inner)

    def read(self, window: Window) -> np.ndarray:
        """Read a rectangle, (window.height, window.width, 3) uint8, RGB."""
        if min(self._inner) < self._patch_size:
            whole = self._picture.read(Window(0, 0, self._picture.height, self._picture.width))
            return crop(self.prepare(whole), window)
        stored = unorient_window(window, self._orientation, self.height, self.width)
        return orient(self._picture.read(stored), self._orientation)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Flip, turn and pad an image of the stored picture's size, (H, W, C)."""
        return pad_to_patch(orient(image, self._orientation), self._patch_size)
