"""Large pictures through the network: block after block in strips of rows, and picture after picture in tiles.

A bare model keeps everything that a block computes for a whole picture. `PictureView` is the same model, on the same
weights, with others in place of some of its parts, which take memory for one strip beside the features:

| in place of | stands | which |
|---|---|---|
| a block, the last modulation | `StripBlock`, `StripModulation` | overwrites the features strip by strip |
| a halving, a stage, a joint | `StripDownsample`, `RoomyStage`, `StripJoin` | fills its result strip by strip |
| a scan | `CarriedScan`, `UpwardScan` | goes on where the strip, or the tile, before left off |
| an enhancement (HEB) | `PictureEnhancement` | takes its means from all strips, or from all tiles |

A strip sees the rows around it that its convolutions need, so that all together are the whole picture's result, to
rounding.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from .block_dpmambair import DPMambaIRBlock, FeatureModulation, PromptedScan
from .large_plan_dpmambair import Tile
from .layers_dpmambair import HighFrequencyEnhancement, LinearDownsample, LinearUpsample
from .modeling_dpmambair import DPMambaIRModel, DPMambaIRNetwork, DPMambaIRStage
from .selective_scan_dpmambair import resume_selective_scan

# Numbers in a strip: on the CPU enough for its layers to outweigh their calls, and few enough to stay in a cache;
# elsewhere enough for its many cores.
CPU_STRIP_NUMBERS, STRIP_NUMBERS = 2**21, 2**24
# Rows that a strip has at least, because each computes those around it too.
STRIP_ROWS = 16


class Strip(NamedTuple):
    """Rows of features that are computed at once.

    Attributes:
        start: first row.
        stop: row after the last.
        seen: rows that must be seen for it.
    """

    start: int
    stop: int
    seen: slice

    @property
    def place(self) -> slice:
        """Where it lies in the features."""
        return slice(self.start, self.stop)

    @property
    def inner(self) -> slice:
        """Where it lies in what is seen."""
        return slice(self.start - self.seen.start, self.stop - self.seen.start)

    def double(self) -> "Strip":
        """Return the strip at twice the resolution."""
        return Strip(2 * self.start, 2 * self.stop, slice(2 * self.seen.start, 2 * self.seen.stop))


def strip_numbers(device: torch.device) -> int:
    """Return how many numbers a strip has on a device."""
    return CPU_STRIP_NUMBERS if device.type == "cpu" else STRIP_NUMBERS


def plan_strips(x: torch.Tensor, reach: int = 0) -> list[Strip]:
    """Divide features (B, H, W, C) into strips from top to bottom.

    Args:
        x: the features.
        reach: rows that each must see on either side.
    """
    batch, height, width, channels = x.shape
    rows = max(strip_numbers(x.device) // (batch * width * channels), STRIP_ROWS)
    bounds = itertools.pairwise([*range(0, height, rows), height])
    return [Strip(start, stop, slice(max(start - reach, 0), min(stop + reach, height))) for start, stop in bounds]


@dataclass
class Window:
    """What the network looks at just now.

    Attributes:
        tile: the part of the picture.
        strip: the rows of its features.
        height: rows that these features have in all.
    """

    tile: Tile | None = None
    strip: Strip | None = None
    height: int = 0


class OverwrittenFeatures:
    """Features that strips replace from top to bottom, each after it has seen the rows above as they were.

    Args:
        x: the features, (B, H, W, C).
        reach: rows that each strip sees on either side.
    """

    def __init__(self, x: torch.Tensor, reach: int) -> None:
        self._x, self._reach = x, reach
        self._above: torch.Tensor | None = None

    @contextmanager
    def seen_by(self, strip: Strip) -> Iterator[torch.Tensor]:
        """Give what a strip sees, (B, H', W, C), as long as the block lasts; nothing may be kept of it."""
        above = self._x[:, strip.seen.start : strip.start]
        replaced = above.clone()
        if self._above is not None:
            above.copy_(self._above)
        yield self._x[:, strip.seen]
        above.copy_(replaced)
        self._above = self._x[:, strip.stop - self._reach : strip.stop].clone()

    def add(self, strip: Strip, change: torch.Tensor) -> None:
        """Add a change (B, h, W, C) to the rows of a strip."""
        self._x[:, strip.place].add_(change)


def assemble(strips: Sequence[Strip], compute: Callable[[Strip], torch.Tensor]) -> torch.Tensor:
    """Return features (B, H, W, C) of which each strip is computed alone.

    Args:
        strips: from top to bottom.
        compute: returns the rows of one, (B, h, W, C).
    """
    first = compute(strips[0])
    whole = first.new_empty(len(first), strips[-1].stop, *first.shape[2:])
    whole[:, strips[0].place] = first
    for strip in strips[1:]:
        whole[:, strip.place] = compute(strip)
    return whole


class StripBlock(nn.Module):
    """A block whose result takes the place of its features where these are large."""

    def __init__(self, block: DPMambaIRBlock, window: Window) -> None:
        super().__init__()
        self.block, self.window = block, window
        self.reach = 1 if block.mixer is None else max(1, block.mixer.scan.scan.conv.kernel_size[0] // 2)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        strips, self.window.height = plan_strips(x, self.reach), x.shape[1]
        if len(strips) == 1:
            self.window.strip = strips[0]
            return self.block(x, embedding)
        if self.block.mixer is not None:
            self._add_mixed(x, strips, embedding)
        features = OverwrittenFeatures(x, self.reach)
        for strip in strips:
            with features.seen_by(strip) as seen:
                change = self.block.feed(seen, embedding)[:, strip.inner]
            features.add(strip, change)
        return x

    def _add_mixed(self, x: torch.Tensor, strips: list[Strip], embedding: torch.Tensor) -> None:
        block, mixer = self.block, self.block.mixer
        if mixer.reverse_scan is not None:
            for self.window.strip in reversed(strips):
                prepared = block.prepare(x[:, self.window.strip.seen], embedding)
                mixer.reverse_scan.scan_ahead(*mixer.project(prepared), embedding)
        features = OverwrittenFeatures(x, self.reach)
        for strip in strips:
            self.window.strip = strip
            with features.seen_by(strip) as seen:
                change = block.mix(seen, embedding)  # its scans return the strip's own rows
            features.add(strip, change)
        if isinstance(block.heb, PictureEnhancement):
            block.heb.finish(x)


class CarriedScan(nn.Module):
    """A scan of a strip's own rows that goes on where the strip above left off.

    Where tiles are as wide as the picture it goes on from tile to tile too. A tile takes over two states: at its first
    row, and again at its seam, because its first rows suffer from the cut.

    Args:
        scan: the scan.
        window: tells tile and strip.
        is_carried: whether it goes on from tile to tile.
    """

    def __init__(self, scan: PromptedScan, window: Window, is_carried: bool) -> None:
        super().__init__()
        self.scan, self.window, self.is_carried = scan, window, is_carried
        self._state: torch.Tensor | None = None  # after the strip above
        # By the rows of the tile at which they enter: of this tile, and of the next.
        self._entering: dict[int, torch.Tensor] = {}
        self._leaving: dict[int, torch.Tensor] = {}

    def begin(self) -> None:
        """Go back to the top of the picture."""
        self._leaving = {}

    def forward(self, x: torch.Tensor, gate: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Scan row-major: branches F1 and F2 of what the strip sees, (B, H, W, D), to its own rows, (B, h, W, D)."""
        strip, width = self.window.strip, x.shape[2]
        if strip.start == 0:
            self._state, self._entering, self._leaving = None, self._leaving, {}
        sequences, parts = _read(self.scan, x, strip), []
        A, D, kind = self.scan.compute_constants(embedding)
        enter, leave, following = self._find_marks(width)
        inside = {row for row in (enter, leave, following) if strip.start < row < strip.stop}
        for start, stop in itertools.pairwise(sorted({strip.start, strip.stop, *inside})):
            steps = slice((start - strip.start) * width, (stop - strip.start) * width)
            u, dt, B, C = (each[:, steps] for each in sequences)
            before = self._entering.get(start, self._state)
            y, self._state = resume_selective_scan(u, dt, A, B, C, D, state=before, **kind)
            parts.append(y)
            if stop in (leave, following):
                self._leaving[stop - following] = self._state
        gate = gate[:, strip.inner]
        return self.scan.norm(torch.cat(parts, 1).view_as(gate), gate)

    def _find_marks(self, width: int) -> tuple[int, ...]:
        """Return the rows of the features where states enter, leave and follow; beyond them where none do."""
        if not self.is_carried:
            return (self.window.height + 1,) * 3
        tile = self.window.tile
        return tuple(
            (row - tile.rows.start) // (tile.columns.padded // width)
            for row in (tile.rows.enter, tile.rows.leave, tile.rows.following)
        )


class UpwardScan(nn.Module):
    """A scan from the last pixel to the first, of a strip's own rows.

    Strips come from top to bottom, so it must have seen them before: `scan_ahead`, from bottom to top.
    """

    def __init__(self, scan: PromptedScan, window: Window) -> None:
        super().__init__()
        self.scan, self.window = scan, window
        self._state: torch.Tensor | None = None  # after the strip below
        self._results: list[torch.Tensor] = []

    def scan_ahead(self, x: torch.Tensor, gate: torch.Tensor, embedding: torch.Tensor) -> None:
        """Scan what a strip sees, after all strips below it, and keep the result."""
        strip, before = self.window.strip, self._state if self._results else None
        A, D, kind = self.scan.compute_constants(embedding)
        u, dt, B, C = _read(self.scan, x, strip)
        y, self._state = resume_selective_scan(u, dt, A, B, C, D, state=before, **kind)
        gate = gate[:, strip.inner]
        self._results.append(self.scan.norm(y.view_as(gate), gate))

    def forward(self, x: torch.Tensor, gate: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return the result of the uppermost strip that is left, (B, h, W, D)."""
        if not self._results:
            self.scan_ahead(x, gate, embedding)
        return self._results.pop()


def _read(scan: PromptedScan, x: torch.Tensor, strip: Strip) -> list[torch.Tensor]:
    """Return what the scan reads of a strip's own rows."""
    width = x.shape[2]
    return [each[:, strip.inner.start * width : strip.inner.stop * width] for each in scan.project(x)]


class PictureEnhancement(HighFrequencyEnhancement):
    """HEB of strips and tiles around the means of the picture.

    Attributes:
        mean: of the picture, (B, C); None where the tile is the picture, whose means are then found on the way.
    """

    def __init__(self, heb: HighFrequencyEnhancement, window: Window) -> None:
        super().__init__()
        self.scale, self.window = heb.scale, window
        self.mean: torch.Tensor | None = None
        self._sum: torch.Tensor | float = 0.0
        self._count = 0

    def measure(self) -> torch.Tensor:
        """Return the means of all that the tiles have shown since the last call, (B, C)."""
        mean, self._sum, self._count = self._sum / self._count, 0.0, 0
        return mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Enhance a strip's rows, (B, h, W, C); where the mean is not known yet, `finish` does the rest."""
        tile, strip = self.window.tile, self.window.strip
        rows, columns = tile.rows.inner(self.window.height), tile.columns.inner(x.shape[2])
        top, bottom = (min(max(row, strip.start), strip.stop) - strip.start for row in (rows.start, rows.stop))
        inner = x[:, top:bottom, columns]
        self._sum = self._sum + inner.sum(2, dtype=torch.float32).sum(1)
        self._count += inner.shape[1] * inner.shape[2]
        if self.mean is not None:
            return torch.lerp(x, self.mean[:, None, None].to(x.dtype), -self.scale.to(x.dtype))
        is_whole = strip.stop - strip.start == self.window.height
        return super().forward(x) if is_whole else x * (1 + self.scale.to(x.dtype))

    def finish(self, x: torch.Tensor) -> None:
        """Take the share of the means off features (B, H, W, C) to which all strips have been added."""
        if self.mean is None:
            x -= (self.scale * (self._sum / self._count)[:, None, None]).to(x.dtype)


class StripModulation(nn.Module):
    """A modulation whose result takes the place of its features."""

    def __init__(self, modulation: FeatureModulation) -> None:
        super().__init__()
        self.modulation = modulation

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        for strip in plan_strips(x):
            x[:, strip.place] = self.modulation(x[:, strip.place], embedding)
        return x


class StripDownsample(nn.Module):
    """A halving of the resolution, strip by strip."""

    def __init__(self, down: nn.Module) -> None:
        super().__init__()
        self.down, self.reach = down, 0 if isinstance(down, LinearDownsample) else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, C')."""
        strips = plan_strips(x[:, ::2, ::2], self.reach)
        return assemble(strips, lambda strip: self.down(x[:, strip.double().seen])[:, strip.inner])


class RoomyStage(nn.Module):
    """The first stage, which leaves room beside its features for what will be joined with them.

    Later there would be none: by then the memory is in pieces.

    Attributes:
        room: of twice the width, (B, H, W, 2 C), the features in its second half; until it is taken.
    """

    def __init__(self, stage: DPMambaIRStage) -> None:
        super().__init__()
        self.stage = stage
        self.room: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        x = self.stage(x, embedding)
        self.room = x.new_empty(*x.shape[:-1], 2 * x.shape[-1])
        features = self.room[..., x.shape[-1] :]
        features.copy_(x)
        return features


class StripJoin:
    """A network's `join` where it has strips: the sum takes the place of the skip, or the room beside it is filled."""

    def __init__(self, network: DPMambaIRNetwork) -> None:
        self._network = network
        if not network.has_summed_skips:
            network.encoder[0] = RoomyStage(network.encoder[0])
        network.join = self

    def __call__(self, up: nn.Module, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Double the resolution of features (B, H, W, C), and join those of the encoder, (B, 2 H, 2 W, C')."""
        is_largest, is_sum = up is self._network.up[-1], self._network.has_summed_skips
        if not (is_sum or is_largest):
            return DPMambaIRNetwork.join(self._network, up, x, skip)
        joined = skip
        if not is_sum:
            joined, self._network.encoder[0].room = self._network.encoder[0].room, None
        for strip in plan_strips(x, 0 if isinstance(up, LinearUpsample) else 1):
            doubled = up(x[:, strip.seen])[:, strip.double().inner]
            place = joined[:, strip.double().place, :, : doubled.shape[-1]]
            if is_sum:
                place.add_(doubled)
            else:
                place.copy_(doubled)
        return joined


class PictureView:
    """A model that sees a picture in strips and tiles, without gradients, on the weights of another.

    Args:
        model: owner of the weights; it stays as it is, and may be used meanwhile.
        is_carried: whether the tiles are as wide as the picture and come from top to bottom, so that scans go on.
    """

    def __init__(self, model: DPMambaIRModel, is_carried: bool = True) -> None:
        self.model = copy.deepcopy(model, {id(each): each for each in (*model.parameters(), *model.buffers())})
        self.window, network = Window(), self.model.network
        self.enhancements: list[PictureEnhancement] = []
        self.scans: list[CarriedScan] = []
        for stage in (*network.encoder, network.latent, *network.decoder, network.refinement):
            for block in stage.blocks:
                self._prepare(block, is_carried)
            stage.blocks = nn.ModuleList(StripBlock(block, self.window) for block in stage.blocks)
        network.down = nn.ModuleList(StripDownsample(down) for down in network.down)
        if network.out_modulation is not None:
            network.out_modulation = StripModulation(network.out_modulation)
        StripJoin(network)

    def _prepare(self, block: DPMambaIRBlock, is_carried: bool) -> None:
        if block.mixer is None:
            return
        block.mixer.scan = CarriedScan(block.mixer.scan, self.window, is_carried)
        self.scans.append(block.mixer.scan)
        if block.mixer.reverse_scan is not None:
            block.mixer.reverse_scan = UpwardScan(block.mixer.reverse_scan, self.window)
        if isinstance(block.heb, HighFrequencyEnhancement):
            block.heb = PictureEnhancement(block.heb, self.window)
            self.enhancements.append(block.heb)

    def begin(self) -> None:
        """Go back to the top of the picture."""
        for scan in self.scans:
            scan.begin()

    def measure_means(self) -> list[torch.Tensor]:
        """Return each enhancement's means of what was seen since the last call, (B, C)."""
        return [each.measure() for each in self.enhancements]

    def set_means(self, means: list[torch.Tensor]) -> None:
        """Fix the means around which the picture is enhanced."""
        for each, mean in zip(self.enhancements, means, strict=True):
            each.mean = mean


__all__ = ["PictureView", "strip_numbers"]
