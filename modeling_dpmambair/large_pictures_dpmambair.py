"""Large pictures: in strips; where the memory is short, in squares; and else in overlapping tiles that agree.

Tiles share what the network takes from the whole picture:

| the network takes from the whole picture | tiles get it by |
|---|---|
| the degradation embedding | `embed_picture`, window by window or strip by strip |
| the means of the enhancement blocks (HEB) | a first pass over all tiles, which only measures them, or two |
| the states of the scans, which run through all rows | handing them on from tile to tile |
| what lies around a pixel, through convolutions | their overlap |

Tiles are as wide as the picture, since the scans run row by row; only where the memory is too short for that are they
narrower, and scans then begin anew in each.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from .extractor_statistics_dpmambair import (
    Moments,
    Profiles,
    measure_moments,
    measure_profiles,
    plan_windows,
    split_windows,
)
from .large_plan_dpmambair import OVERLAP, Tile, plan_tiles
from .large_squares_dpmambair import SquareLevels
from .large_strips_dpmambair import PictureView, strip_numbers
from .modeling_degradation_extractor import DegradationExtractorModel
from .modeling_dpmambair import SIZE_MULTIPLE, DPMambaIRModel, DPMambaIROutput

# Fixed, not taken from the machine's free memory, so that a picture is restored alike everywhere.
MEMORY_BUDGET = 3 * 2**30
# What restoring takes for each number in half of the last stage's features, where skips lie beside the features and
# where they are added to them; for a second direction; and for each number in a strip.
NUMBER_BYTES, SUMMED_BYTES, SECOND_BYTES, STRIP_BYTES = 27, 12, 8, 210
# And for each pixel that passes in squares: its correction and their sum.
SQUARES_BYTES = 24
# Overlaps of tiles as wide as the picture, pixels: what the convolutions of trained weights reach, within 1e-4 of the
# whole picture's result; and the usual one where the memory is too short for that.
ROW_OVERLAPS = (128, OVERLAP)
# Times the usual overlap where scans begin anew in each tile and must first forget it.
SCAN_CONTEXT = 4
# Pixels that are embedded at once; at least so many times the rows around them that are computed for them.
EMBEDDED_PIXELS, EMBEDDED_CONTEXTS = 2**17, 8
# How far means may be off, in features: at most a tenth of it is what that makes of a picture.
MEANS_TOLERANCE = 5e-4
# So often at most the means are corrected and the picture is restored anew.
MOST_CORRECTIONS = 2
# Rows of the bands of a sheet, and its largest share of a picture.
BAND_ROWS, SHEET_SHARE = 32, 1 / 4

Progress: TypeAlias = Callable[[int, int], None]


def bytes_needed(model: DPMambaIRModel, pixels: int, has_squares: bool = False) -> int:
    """Return how much memory restoring takes at its peak, float32, beside the model.

    `python -m benchmarks.tiling` measures it; this is a little more for each of the family's sizes.

    Args:
        model: restores.
        pixels: of all pictures that it restores at once.
        has_squares: whether the levels above the first scan are computed in squares.
    """
    numbers, each = _count_numbers(model, has_squares)
    return each * pixels + STRIP_BYTES * min(numbers * pixels, strip_numbers(model.device))


def pixels_within(model: DPMambaIRModel, memory_budget: int, has_squares: bool = False) -> int:
    """Return how many pixels may be restored at once: `bytes_needed`, the other way round."""
    numbers, each = _count_numbers(model, has_squares)
    of_strip = STRIP_BYTES * strip_numbers(model.device)
    return max(memory_budget // (each + STRIP_BYTES * numbers), (memory_budget - of_strip) // each)


def _count_numbers(model: DPMambaIRModel, has_squares: bool) -> tuple[int, int]:
    """Return, for each pixel, the numbers in half of the largest features that are kept, and the bytes they take."""
    config, width, share, pixel_bytes = model.config, model.network.conv_out.in_channels, 1, 0
    if has_squares:
        level = config.first_mixer_level
        width, share, pixel_bytes = config.dims[level], 4**level, SQUARES_BYTES
    numbers = -(-width // (2 * share))
    number_bytes = SUMMED_BYTES if config.has_summed_skips else NUMBER_BYTES
    number_bytes += SECOND_BYTES * (config.scan_directions - 1)
    return numbers, number_bytes * numbers + pixel_bytes


def choose_tile(height: int, width: int, pixels: int) -> tuple[tuple[int, int], int]:
    """Choose the tiles of a picture.

    Args:
        height: of the picture, pixels.
        width: likewise.
        pixels: largest area of a tile.

    Returns:
        Largest height and width of a tile, and the overlap of neighbours, pixels.

    Raises:
        ValueError: the area is too small for tiles.
    """
    height, width = padded_size(height, width)
    for overlap in ROW_OVERLAPS:
        if pixels >= 3 * overlap * width:
            return (min(height, pixels // width // SIZE_MULTIPLE * SIZE_MULTIPLE), width), overlap
    overlap = SCAN_CONTEXT * OVERLAP
    side = math.isqrt(pixels) // SIZE_MULTIPLE * SIZE_MULTIPLE
    if side < 2 * overlap:
        rule = f"suffice for tiles of {2 * overlap} x {2 * overlap} pixels"
        raise ValueError(f"`memory_budget` must {rule}, got enough for {pixels} pixels; raise it")
    return (side, side), overlap


@torch.no_grad()
def restore_tiled(
    model: DPMambaIRModel,
    pixel_values: torch.Tensor,
    *,
    degradation_embedding: torch.Tensor | None = None,
    strength: float | None = None,
    memory_budget: int = MEMORY_BUDGET,
    tile: tuple[int, int] | None = None,
    overlap: int = OVERLAP,
    progress: Progress | None = None,
) -> DPMambaIROutput:
    """Restore pictures whole if the memory allows, and otherwise in overlapping tiles.

    Args:
        model: restores.
        pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1], on any device.
        degradation_embedding: used instead of the model's own, (B, E) or (1, E).
        strength: factor on the correction, as in the model's forward.
        memory_budget: what restoring may take beside model and pictures, bytes.
        tile: largest height and width of a tile, pixels, multiples of 8, in place of what the memory allows.
        overlap: of neighbouring tiles, pixels, a multiple of 16; in force with `tile` only.
        progress: called after each step of the work with the number of steps that are done, and of all.

    Returns:
        Restored pictures and embeddings: of a whole picture the model's own output, of tiles float32 on the CPU.

    Raises:
        ValueError: tile, overlap or memory are impossible, or the model needs an embedding that was not given.
    """
    batch, _, height, width = pixel_values.shape
    pixels, has_squares = pixels_within(model, memory_budget) // batch, False
    if tile is None and height * width > pixels and model.config.first_mixer_level > 0:
        most = pixels_within(model, memory_budget, has_squares=True) // batch
        pixels, has_squares = max(most, pixels), most > pixels
    fits = height * width <= pixels if tile is None else height <= tile[0] and width <= tile[1]
    report = progress or (lambda done, total: None)
    numbers, _ = _count_numbers(model, has_squares=False)
    if fits and not has_squares and batch * height * width * numbers <= strip_numbers(model.device):
        options = {"degradation_embedding": degradation_embedding, "strength": strength}
        output = model(pixel_values.to(model.device), **options, return_dict=True)
        report(1, 1)
        return output
    embedding = degradation_embedding
    if embedding is None and model.config.embedding_source == "extractor":
        embedding = embed_picture(model.extractor, pixel_values, memory_budget)
    if fits:
        tile, overlap = padded_size(height, width), 0
    elif tile is None:
        tile, overlap = choose_tile(height, width, pixels)
    tiles = plan_tiles(height, width, tile, overlap)
    view = PictureView(model, is_carried=tile[1] >= width)
    has_means_to_find = bool(view.enhancements) and len(tiles) > 1
    steps = _Steps(report, 2 * len(tiles) + 2 if has_means_to_find else len(tiles))
    squares = None
    if has_squares:
        view.model.network = squares = SquareLevels(view.model.network, model.config.first_mixer_level)
        if fits:
            squares.advance = steps.advance
            steps.total += 2 * len(squares.plan(batch, *padded_size(height, width)))
    work = _Work(view, pixel_values, embedding, tiles, steps, squares)
    means = _PictureMeans(work) if has_means_to_find else None
    # The rounding of bfloat16 is larger than what corrections mend.
    is_exact = model.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type)
    corrections = MOST_CORRECTIONS if means is not None and is_exact else 0
    if squares is not None:
        # The way up, which takes most of the time, can wait for the means.
        for _ in range(corrections):
            steps.total += len(tiles)
            if means.find_error(work.measure()) <= MEANS_TOLERANCE:
                break
            means.correct()
        del means  # and its sheet
        return DPMambaIROutput(reconstruction=work.restore(strength), degradation_embedding=embedding)
    restored = work.restore(strength)
    for _ in range(corrections):
        if means.find_error(view.measure_means()) <= MEANS_TOLERANCE:
            break
        steps.total += len(tiles)
        means.correct()
        del restored  # before there is another one
        restored = work.restore(strength)
    return DPMambaIROutput(reconstruction=restored, degradation_embedding=embedding)


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Return the sides of a picture as the network pads it, pixels."""
    return height + -height % SIZE_MULTIPLE, width + -width % SIZE_MULTIPLE


class _Steps:
    """Counts the steps that are done, and reports each."""

    def __init__(self, report: Progress, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def advance(self) -> None:
        self.done += 1
        self.report(self.done, self.total)


@dataclass(frozen=True)
class _Work:
    """What is restored, in which tiles."""

    view: PictureView
    pixel_values: torch.Tensor
    embedding: torch.Tensor | None
    tiles: list[Tile]
    steps: _Steps
    squares: SquareLevels | None

    def restore_parts(self, strength: float | None = None) -> Iterator[tuple[Tile, torch.Tensor]]:
        """Restore tile after tile, from the top of the picture."""
        self.view.begin()
        for part in self.tiles:
            self.view.window.tile = part
            degraded = part.of(self.pixel_values).to(self.view.model.device)
            options = {"degradation_embedding": self.embedding, "strength": strength}
            yield part, self.view.model(degraded, **options, return_dict=True).reconstruction
            self.steps.advance()

    def restore(self, strength: float | None) -> torch.Tensor:
        """Return the restored pictures, tiles blended."""
        parts = self.restore_parts(strength)
        if len(self.tiles) == 1:
            ((_, restored),) = parts
            return restored
        restored = torch.zeros(self.pixel_values.shape)
        for part, found in parts:
            part.of(restored).addcmul_(found.float().cpu(), part.weights)
            del found  # before there is the next one
        return restored

    def measure(self) -> list[torch.Tensor]:
        """Return the means of what all enhancements see in all tiles."""
        if self.squares is not None:
            self.squares.only_measures = True
        deque(self.restore_parts(), maxlen=0)  # which keeps none of them
        if self.squares is not None:
            self.squares.only_measures = False
        return self.view.measure_means()


class _PictureMeans:
    """Finds the means around which the whole picture would be enhanced, and fixes them in the view.

    The means of a block depend on those before it. A sheet of bands from all over the picture, seen at once, gives
    means that are consistent, but of the sheet. A pass over all tiles around these gives means of the whole picture,
    but as they follow from the sheet's. How much that matters the sheet itself tells: around the new means it shows
    others than before, and so would the picture. Where that was not enough, which the restoration tells on the way,
    the same is done again.
    """

    def __init__(self, work: _Work) -> None:
        sheet = lay_out_sheet(work.pixel_values, work.tiles[0])
        rows, columns = sheet.shape[2:]
        self._view, self._picture = work.view, work
        whole = plan_tiles(rows, columns, padded_size(rows, columns), 0)
        self._sheet = replace(work, pixel_values=sheet, tiles=whole)
        self._fix(self._sheet.measure())
        self._seen = work.measure()
        self._follow(self._fixed)

    def find_error(self, seen: list[torch.Tensor]) -> float:
        """Return how far the means that the picture showed are from those around which it was seen, at most."""
        self._seen = seen
        pairs = zip(seen, self._fixed, strict=True)
        return max(float((each - fixed).abs().max()) for each, fixed in pairs)

    def correct(self) -> None:
        """Fix better means than those around which the picture was seen last."""
        self._picture.steps.total += 2
        self._follow(self._sheet.measure())

    def _follow(self, of_sheet: list[torch.Tensor]) -> None:
        """Fix the means that follow from those seen, as the sheet's follow from what it showed before."""
        self._fix(self._seen)
        shifts = [new - old for new, old in zip(self._sheet.measure(), of_sheet, strict=True)]
        self._fix([mean + shift for mean, shift in zip(self._seen, shifts, strict=True)])

    def _fix(self, means: list[torch.Tensor]) -> None:
        self._fixed = means
        self._view.set_means(means)


def lay_out_sheet(pixel_values: torch.Tensor, tile: Tile) -> torch.Tensor:
    """Stack bands of rows from all over the pictures, evenly spaced, (B, 3, h, w), of at most one tile's area."""
    height, width = pixel_values.shape[2:]
    rows, columns = (span.stop - span.start for span in (tile.rows, tile.columns))
    count = min(rows * columns // width, int(height * SHEET_SHARE)) // BAND_ROWS
    if count == 0:
        count, width = 1, columns
    centres = (int((band + 0.5) * height / count) for band in range(count))
    tops = [max(centre - BAND_ROWS // 2, 0) // SIZE_MULTIPLE * SIZE_MULTIPLE for centre in centres]
    return torch.cat([pixel_values[..., top : top + BAND_ROWS, :width] for top in tops], 2)


def embedding_context(extractor: DegradationExtractorModel) -> int:
    """Return how many rows on either side of a strip its statistics depend on."""
    return SIZE_MULTIPLE * (max(3, *extractor.config.kernel_sizes) // 2 + 1)


@torch.no_grad()
def embed_picture(
    extractor: DegradationExtractorModel, pixel_values: torch.Tensor, memory_budget: int = MEMORY_BUDGET
) -> torch.Tensor:
    """Embed whole pictures, large ones window by window where the extractor reads windows, else strip by strip.

    Without windows the embedding is read from means and variances over all positions, and those of strips add up: with
    enough rows of context around each strip the result is the whole picture's, to rounding.

    Args:
        extractor: embeds.
        pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1], on any device.
        memory_budget: what this may take beside extractor and pictures, bytes; not read where the extractor reads
            windows, which are small.

    Returns:
        The embeddings, (B, E).
    """
    if extractor.config.window is not None:
        return _embed_windows(extractor, pixel_values)
    batch, _, height, width = pixel_values.shape
    context = embedding_context(extractor)
    rows = min(
        max(EMBEDDED_PIXELS // (width * batch), EMBEDDED_CONTEXTS * context),
        memory_budget // (16 * 4 * extractor.config.channels[0] * width * batch),
    )
    if height <= rows:
        return extractor(pixel_values.to(extractor.device), return_dict=True).degradation_embedding
    rows = max((rows - 2 * context) // SIZE_MULTIPLE, 1) * SIZE_MULTIPLE
    has_fine = extractor.config.has_fine_statistics
    moments: list[list[tuple[int, Moments, torch.Tensor]]] = [[] for _ in extractor.stages]
    profiles: list[tuple[int, Profiles]] = []
    for start in range(0, height, rows):
        top, own = max(start - context, 0), min(rows, height - start)
        strip = pixel_values[..., top : start + rows + context, :].to(extractor.device)
        x = strip.permute(0, 2, 3, 1).to(extractor.head.weight.dtype)
        for level, stage in enumerate(extractor.stages):
            x = stage(x)
            inner = x[:, (start - top) >> level : (start - top + own - 1 >> level) + 1]
            inner = inner.float()
            found = measure_moments(inner, has_fourth=has_fine)
            third = ((inner - found.mean[:, None, None]) ** 3).mean((1, 2)) if has_fine else found.fourth
            moments[level].append((inner.shape[1], found, third))
        if has_fine:
            across, _ = measure_profiles(strip[..., start - top : start - top + own, :])
            # The last row differs from the first one of the next strip too.
            _, down = measure_profiles(strip[..., start - top : start - top + own + 1, :])
            profiles.append((own, Profiles(across, down)))
    return extractor.embed([_unite(stage) for stage in moments], _unite_profiles(profiles) if has_fine else None)


def _embed_windows(extractor: DegradationExtractorModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Embed pictures, a few windows at a time."""
    batch, _, height, width = pixel_values.shape
    rows, _, high, wide = plan_windows(height, width, extractor.config.window)
    most, found = max(EMBEDDED_PIXELS // (high * wide), 1), []
    for top in range(0, rows * high, high):
        windows = split_windows(pixel_values[..., top : top + high, :], extractor.config.window)
        parts = [extractor(each.to(extractor.device), return_dict=True) for each in windows.split(most)]
        found.append(torch.cat([each.degradation_embedding for each in parts]).unflatten(0, (batch, -1)))
    return torch.cat(found, 1).mean(1)


def _unite(found: list[tuple[int, Moments, torch.Tensor]]) -> Moments:
    """Return the moments over all strips from rows, moments and third moments of each."""
    counts, strips, third = zip(*found, strict=True)
    stacked = Moments(*map(torch.stack, zip(*strips, strict=True)))
    return unite_moments(torch.tensor(counts, device=stacked.mean.device), stacked, torch.stack(third))


def unite_moments(rows: torch.Tensor, strips: Moments, thirds: torch.Tensor) -> Moments:
    """Return the moments over all strips of pictures.

    Args:
        rows: of each strip, (S,).
        strips: their moments, (S, B, C) each; the fourth may be empty.
        thirds: their third central moments, of the fourth's shape.
    """
    shares = (rows / rows.sum())[:, None, None]
    mean = (shares * strips.mean).sum(0)
    offset = strips.mean - mean
    variance = (shares * (strips.variance + offset**2)).sum(0)
    if not strips.fourth.shape[-1]:
        return Moments(mean, variance, strips.fourth[0])
    terms = strips.fourth + 4 * offset * thirds + 6 * offset**2 * strips.variance + offset**4
    return Moments(mean, variance, (shares * terms).sum(0))


def _unite_profiles(found: list[tuple[int, Profiles]]) -> Profiles:
    """Return the profiles of whole pictures from rows and profiles of each strip."""
    counts, strips = zip(*found, strict=True)
    across = torch.stack([strip.across for strip in strips])
    rows = torch.tensor(counts, device=across.device)[:, None, None, None]
    return Profiles((rows / rows.sum() * across).sum(0), torch.cat([strip.down for strip in strips], -1))


__all__ = ["MEMORY_BUDGET", "Progress", "choose_tile", "embed_picture", "restore_tiled"]
