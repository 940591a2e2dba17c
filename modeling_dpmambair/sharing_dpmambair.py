"""What the network takes from a whole picture, for a network that sees it tile by tile: HEB's means, scan states."""

import copy
import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from .layers_dpmambair import HighFrequencyEnhancement
from .modeling_dpmambair import DPMambaIRModel
from .prompt_scan_dpmambair import PromptedScan, ScanStrip
from .selective_scan_dpmambair import resume_selective_scan
from .tiles_dpmambair import Tile


class PictureEnhancement(HighFrequencyEnhancement):
    """HEB of tiles around the means of the picture.

    Without means it takes those of the tile, as HEB does of a picture; and it always measures them.
    """

    def __init__(self, heb: HighFrequencyEnhancement) -> None:
        super().__init__()
        self.scale = heb.scale
        self.tile: Tile | None = None
        self.mean: torch.Tensor | None = None
        self.sum: torch.Tensor | float = 0.0
        self.count = 0

    def measure(self) -> torch.Tensor:
        """Return the means of all that the tiles have shown since the last call, (B, C)."""
        mean, self.sum, self.count = self.sum / self.count, 0.0, 0
        return mean

    def sum_rows(self, x: torch.Tensor) -> torch.Tensor:
        """Return each row's sums over all its pixels and over those of the tile's inner columns, (B, h, 2, C)."""
        inner = x[:, :, self.tile.columns.inner(x.shape[2])]
        return torch.cat([super(PictureEnhancement, self).sum_rows(each) for each in (x, inner)], 2)

    def average(self, sums: torch.Tensor, width: int) -> torch.Tensor:
        """Return the picture's means, (B, 1, 1, C), or a tile's if they are not known."""
        height = sums.shape[1]
        rows, columns = self.tile.rows.inner(height), self.tile.columns.inner(width)
        self.sum = self.sum + sums[:, rows, 1].sum(1)
        self.count += (rows.stop - rows.start) * (columns.stop - columns.start)
        return super().average(sums[:, :, :1], width) if self.mean is None else self.mean[:, None, None]


class PictureScan(nn.Module):
    """A scan through tiles as wide as the picture that goes on where the tile above left off.

    A tile takes over two states: at its first row, and again at its seam, because its first rows suffer from the cut.
    """

    def __init__(self, scan: PromptedScan) -> None:
        super().__init__()
        self.scan = scan
        self.tile: Tile | None = None
        # Of the tile that comes next, by its rows.
        self.states: dict[int, torch.Tensor] = {}

    def forward(self, x: torch.Tensor, gate: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Scan a tile row-major, as `PromptedScan` does a picture."""
        return next(self.scan_strips([ScanStrip(x, gate, slice(None))], embedding))

    def scan_strips(self, strips: Iterable[ScanStrip], embedding: torch.Tensor) -> Iterator[torch.Tensor]:
        """Scan a tile strip by strip, as `PromptedScan` does a picture."""
        (A, D, kind), rows = self.scan.compute_constants(embedding), self.tile.rows
        above, self.states, state, top = self.states, {}, None, 0
        for strip in strips:
            u, dt, B, C = self.scan.project(strip.x, strip.rows)
            height, width = strip.gate.shape[1:3]
            halvings = self.tile.columns.padded // width
            enter, leave, following = (
                (row - rows.start) // halvings for row in (rows.enter, rows.leave, rows.following)
            )
            cuts = {top, top + height, *(row for row in (enter, leave, following) if top < row < top + height)}
            parts = []
            for start, stop in itertools.pairwise(sorted(cuts)):
                part = slice((start - top) * width, (stop - top) * width)
                *steps, B_part, C_part = (each[:, part] for each in (u, dt, B, C))
                before = above.get(start, state)
                y, state = resume_selective_scan(*steps, A, B_part, C_part, D, state=before, **kind)
                parts.append(y)
                if stop in (following, leave):
                    self.states[stop - following] = state
            yield self.scan.norm(torch.cat(parts, 1).view_as(strip.gate), strip.gate)
            top += height


class PictureView:
    """A model that sees a picture tile by tile, on the weights of another.

    Args:
        model: owner of the weights; it stays as it is, and may be used meanwhile.
        is_carried: whether the tiles are as wide as the picture and come from top to bottom, so that scans go on.
    """

    def __init__(self, model: DPMambaIRModel, is_carried: bool) -> None:
        self.model = copy.deepcopy(model, {id(each): each for each in (*model.parameters(), *model.buffers())})
        self.enhancements: list[PictureEnhancement] = []
        self.scans: list[PictureScan] = []
        for module in list(self.model.network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, HighFrequencyEnhancement):
                    self.enhancements.append(PictureEnhancement(child))
                    setattr(module, name, self.enhancements[-1])
                elif isinstance(child, PromptedScan) and is_carried and not child.is_reversed:
                    self.scans.append(PictureScan(child))
                    setattr(module, name, self.scans[-1])

    def begin(self) -> None:
        """Go back to the top of the picture."""
        for scan in self.scans:
            scan.states = {}

    def look_at(self, tile: Tile) -> None:
        """Say which tile comes next."""
        for part in (*self.enhancements, *self.scans):
            part.tile = tile

    def measure_means(self) -> list[torch.Tensor]:
        """Return each enhancement's means of what was seen since the last call, (B, C)."""
        return [each.measure() for each in self.enhancements]

    def set_means(self, means: list[torch.Tensor]) -> None:
        """Fix the means around which the picture is enhanced."""
        for each, mean in zip(self.enhancements, means, strict=True):
            each.mean = mean


__all__ = ["PictureEnhancement", "PictureScan", "PictureView"]
