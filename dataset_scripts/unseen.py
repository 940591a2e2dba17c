"""Degradations that no recipe trains on: they show what a restorer makes of what it has not seen.

The paper takes pictures pixelated in squares of 2 x 2, and the corpus `raindrop` of photographs through wet glass. The
drops drawn here stand for those of the corpus where it is not at hand; they are not its equals.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np

PIXELS_PER_DROP = 4000
RADIUS = (5.0, 18.0)
# A drop is a wide lens: it shows a part of the scene so many times its size, upside down and out of focus.
REACH, FOCUS = 4.0, 2.0


def pixelate(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each square of 2 x 2 pixels its mean colour.

    Args:
        clean: RGB in [0, 1], (H, W, 3) float32; an odd last row or column is a square of its own.
        rng: unused: nothing is random.

    Returns:
        The pixelated picture, of the same shape, type and range.
    """
    height, width = clean.shape[:2]
    even = cv2.copyMakeBorder(clean, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    means = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, 3).mean((1, 3))
    return means.repeat(2, 0).repeat(2, 1)[:height, :width]


def add_raindrops(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay drops of water on the glass before the lens, about one for every 4,000 pixels.

    Args:
        clean: RGB in [0, 1], (H, W, 3) float32.
        rng: draws places and sizes.

    Returns:
        The degraded picture, of the same shape, type and range.
    """
    height, width = clean.shape[:2]
    rows, columns = (np.ascontiguousarray(grid, np.float32) for grid in np.mgrid[:height, :width])
    source_rows, source_columns, share = rows.copy(), columns.copy(), np.zeros((height, width), np.float32)
    for _ in range(max(1, round(height * width / PIXELS_PER_DROP))):
        top, left = rng.uniform((0, 0), (height, width))
        radius, flatness = rng.uniform(*RADIUS), rng.uniform(0.7, 1.0)
        below, beside = rows - np.float32(top), columns - np.float32(left)
        distance = np.hypot(below, beside / flatness) / radius
        is_inside = distance < 1
        source_rows[is_inside] = (top - REACH * below)[is_inside]
        source_columns[is_inside] = (left - REACH * beside)[is_inside]
        share = np.maximum(share, np.clip(4 * (1 - distance), 0, 1))
    blurred = cv2.GaussianBlur(clean, (0, 0), FOCUS)
    seen = cv2.remap(blurred, source_columns, source_rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return clean + share[..., None] * (seen - clean)


UNSEEN: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = MappingProxyType(
    {"pixelated": pixelate, "raindrops": add_raindrops}
)
"""The degradations by name."""
