"""The plan of a large picture's tiles: where they lie, what of them counts, and how they blend."""

import math
from dataclasses import dataclass

import torch

# The network halves a picture three times, so tiles begin and end on a grid of eight pixels.
GRID = 8
# Measured by `python -m benchmarks.tiling`, pixels.
OVERLAP = 32


@dataclass(frozen=True)
class Span:
    """One part of an axis, in pixels.

    Attributes:
        start: where it begins in the picture.
        stop: where it ends.
        enter: from here on it counts; these inner parts of all spans cover the axis once.
        leave: where the next one counts; for the last, where the network's padding ends.
        following: where the next one begins; for the last as `leave`.
        weights: share of each of its pixels in the blend.
    """

    start: int
    stop: int
    enter: int
    leave: int
    following: int
    weights: torch.Tensor

    @property
    def place(self) -> slice:
        """Where it lies in the picture."""
        return slice(self.start, self.stop)

    @property
    def padded(self) -> int:
        """Its length with the network's padding."""
        return self.stop - self.start + (self.start - self.stop) % GRID

    @property
    def inner_size(self) -> int:
        """How many pixels of it count, the network's padding with them."""
        return self.leave - self.enter

    def scale(self, place: int, size: int) -> int:
        """Find a place of the picture in features of `size` rows (or columns) of this span."""
        return (place - self.start) // (self.padded // size)

    def inner(self, size: int) -> slice:
        """Find the inner part in features of `size` rows (or columns) of this span."""
        return slice(self.scale(self.enter, size), self.scale(self.leave, size))


@dataclass(frozen=True)
class Tile:
    """One part of a picture.

    Attributes:
        rows: its rows.
        columns: its columns.
    """

    rows: Span
    columns: Span

    def of(self, pictures: torch.Tensor) -> torch.Tensor:
        """Cut it out of pictures (B, 3, H, W)."""
        return pictures[..., self.rows.place, self.columns.place]

    @property
    def weights(self) -> torch.Tensor:
        """Share of each pixel in the blend, (h, w); over all tiles that hold a pixel they sum to 1."""
        return self.rows.weights[:, None] * self.columns.weights


def plan_tiles(height: int, width: int, tile: tuple[int, int], overlap: int = OVERLAP) -> list[Tile]:
    """Cover a picture with overlapping tiles of about one size, row by row.

    Tiles begin at multiples of 8 and the last ones end at the border, so that the network halves each tile on the grid
    on which it halves the whole picture. Within `tile` they are as small as their number allows.

    Args:
        height: of the picture, pixels.
        width: likewise.
        tile: largest height and width of a tile, pixels, multiples of 8.
        overlap: of neighbours, pixels, a multiple of 16; at most half of a side that is shorter than the picture's.

    Raises:
        ValueError: a side or the overlap is none of these.
    """
    if overlap < 0 or overlap % (2 * GRID):
        rule = f"a multiple of {2 * GRID} from 0 up"
        raise ValueError(f"`overlap` must be {rule}, got {overlap}; {OVERLAP} is the usual one")
    for side, length in zip(tile, (height, width), strict=True):
        least = max(2 * overlap if side < length else 0, GRID)
        if side < least or side % GRID:
            rule = f"have sides of {least} or more that {GRID} divides"
            raise ValueError(f"`tile` must {rule}, got {side}; enlarge it or lessen the overlap")
    rows, columns = (_split(length, side, overlap) for length, side in zip((height, width), tile, strict=True))
    return [Tile(down, across) for down in rows for across in columns]


def _split(length: int, side: int, overlap: int) -> list[Span]:
    """Cover one axis.

    Of the overlap of neighbours, the first half is the later one's context, in the third quarter they change over, and
    the last is the earlier one's context: scans, which run downwards and to the right, never look behind them.
    """
    padded = length + -length % GRID
    count = math.ceil((padded - overlap) / (side - overlap)) if side < padded else 1
    side = math.ceil((padded + (count - 1) * overlap) / (count * GRID)) * GRID
    starts = [*(part * (side - overlap) for part in range(count - 1)), padded - side]
    seams = [0, *(start + side - overlap // 2 for start in starts[:-1]), padded]
    rise = torch.zeros(overlap // 2) + 1
    rise[: overlap // 4] = torch.sin((torch.arange(overlap // 4) + 0.5) / max(overlap, 1) * 2 * math.pi) ** 2
    spans = []
    for start, following, enter, leave in zip(starts, [*starts[1:], padded], seams, seams[1:], strict=False):
        weights = torch.zeros(min(side, length - start))
        weights[enter - start :] = 1
        if enter:
            weights[enter - start : enter - start + len(rise)] = rise
        if leave < length:
            weights[leave - start :] = 1 - rise
        spans.append(Span(start, start + len(weights), enter, leave, following, weights))
    return spans


__all__ = ["OVERLAP", "Span", "Tile", "plan_tiles"]
