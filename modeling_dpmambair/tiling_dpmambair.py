"""Large pictures in overlapping tiles that share the whole picture's degradation embedding and blend smoothly."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from .configuration_dpmambair import DPMambaIRConfig
from .modeling_degradation_extractor import VARIANCE_EPS, DegradationExtractorModel
from .modeling_dpmambair import SIZE_MULTIPLE, DPMambaIRModel, DPMambaIROutput

# Fixed, not taken from the machine's free memory, so that a picture is restored alike everywhere.
MEMORY_BUDGET = 2 * 2**30
OVERLAP = 64

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Tile:
    """One part of a picture.

    Attributes:
        rows: where it lies.
        columns: likewise.
        row_weights: its share in the blend by row, in [0, 1].
        column_weights: likewise by column; a pixel's share is the product of both.
    """

    rows: slice
    columns: slice
    row_weights: torch.Tensor
    column_weights: torch.Tensor

    @property
    def weights(self) -> torch.Tensor:
        """Share of each pixel in the blend, (h, w); those of all tiles sum to 1 wherever they overlap."""
        return self.row_weights[:, None] * self.column_weights


def plan_tiles(height: int, width: int, tile: tuple[int, int], overlap: int = OVERLAP) -> list[Tile]:
    """Cover a picture with overlapping tiles of about one size, row by row.

    Tiles begin at multiples of 8 and the last ones end at the border, so that the network halves each tile on the grid
    on which it halves the whole picture. Within `tile` they are as small as their number allows.

    Args:
        height: of the picture, pixels.
        width: likewise.
        tile: largest height and width of a tile, pixels, multiples of 8.
        overlap: of neighbours, pixels, a multiple of 8; at most half of each side of `tile`.

    Raises:
        ValueError: a side or the overlap is none of these.
    """
    if overlap < 0 or overlap % SIZE_MULTIPLE:
        raise ValueError(f"`overlap` must be a multiple of {SIZE_MULTIPLE} from 0 up, got {overlap}; 64 is the usual")
    for side in tile:
        least = max(2 * overlap, SIZE_MULTIPLE)
        if side < least or side % SIZE_MULTIPLE:
            raise ValueError(
                f"`tile` must have sides of at least {least} that {SIZE_MULTIPLE} divides, got {side}; "
                "enlarge it or lessen the overlap"
            )
    rows, columns = (_split(length, side, overlap) for length, side in zip((height, width), tile, strict=True))
    return [Tile(down, across, *weights) for down, w in rows for across, v in columns for weights in [(w, v)]]


def _split(length: int, side: int, overlap: int) -> list[tuple[slice, torch.Tensor]]:
    """Cover one axis: where each part lies, and its weights, which sum to 1 over the parts."""
    padded = length + -length % SIZE_MULTIPLE
    count = max(1, math.ceil((padded - overlap) / (side - overlap)))
    side = math.ceil((padded + (count - 1) * overlap) / (count * SIZE_MULTIPLE)) * SIZE_MULTIPLE
    starts = [*(part * (side - overlap) for part in range(count - 1)), padded - side]
    spans = [slice(start, min(start + side, length)) for start in starts]
    ramps = [_ramp(span, length, overlap) for span in spans]
    total = torch.zeros(length)
    for span, ramp in zip(spans, ramps, strict=True):
        total[span] += ramp
    return [(span, ramp / total[span]) for span, ramp in zip(spans, ramps, strict=True)]


def _ramp(span: slice, length: int, overlap: int) -> torch.Tensor:
    """Return weights that rise from 0 at the ends of `span` that are cuts, as a squared sine over the overlap."""
    places = torch.arange(span.start, span.stop) + 0.5
    inside = torch.full_like(places, max(overlap, 1))
    if span.start > 0:
        inside = torch.minimum(inside, places - span.start)
    if span.stop < length:
        inside = torch.minimum(inside, span.stop - places)
    return torch.sin(inside / max(overlap, 1) * (math.pi / 2)) ** 2


def bytes_per_pixel(config: DPMambaIRConfig) -> int:
    """Return how much memory restoring takes at its peak, in bytes for each pixel, float32.

    Args:
        config: of the model.
    """
    return 4 * config.dim * 2 * (6 * config.expand + 10)


def choose_tile(height: int, width: int, pixels: int, overlap: int = OVERLAP) -> tuple[int, int]:
    """Choose the largest height and width of a tile.

    Args:
        height: of the picture, pixels.
        width: likewise.
        pixels: largest area of a tile.
        overlap: of neighbours, pixels.

    Raises:
        ValueError: the area is too small for the overlap.
    """
    least = max(2 * overlap, SIZE_MULTIPLE)
    if pixels < least**2:
        raise ValueError(
            f"`memory_budget` must allow tiles of {least} x {least} pixels, got {pixels} pixels; raise it"
        )
    height, width = (length + -length % SIZE_MULTIPLE for length in (height, width))
    across = min(width, max(math.isqrt(pixels), pixels // height))
    across = max(across // SIZE_MULTIPLE * SIZE_MULTIPLE, least)
    down = min(height, pixels // across)
    return max(down // SIZE_MULTIPLE * SIZE_MULTIPLE, least), across


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
    """Restore pictures whole if that fits the memory, and otherwise in overlapping tiles.

    All tiles share the embedding of the whole picture, and so agree on what they repair.

    Args:
        model: restores.
        pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1], on any device.
        degradation_embedding: used instead of the model's own, (B, E) or (1, E).
        strength: as in the model's forward.
        memory_budget: what restoring may take beside model and pictures, bytes.
        tile: largest height and width of a tile, pixels, multiples of 8; by default the memory decides.
        overlap: of neighbouring tiles, pixels, a multiple of 8.
        progress: called after each tile with the number of tiles that are done, and of all.

    Returns:
        Embedding and restored pictures: whole ones are the model's own output, tiled ones float32 on the CPU.

    Raises:
        ValueError: tile, overlap or memory are impossible, or the model needs an embedding that was not given.
    """
    batch, _, height, width = pixel_values.shape
    pixels = memory_budget // (bytes_per_pixel(model.config) * batch)
    fits = height * width <= pixels if tile is None else height <= tile[0] and width <= tile[1]
    if fits:
        output = model(pixel_values, degradation_embedding=degradation_embedding, strength=strength)
        if progress:
            progress(1, 1)
        return output
    tiles = plan_tiles(height, width, tile or choose_tile(height, width, pixels, overlap), overlap)
    embedding = degradation_embedding
    if embedding is None and model.config.embedding_source == "extractor":
        embedding = embed_picture(model.extractor, pixel_values, memory_budget)
    restored = torch.zeros(pixel_values.shape)
    for done, part in enumerate(tiles, 1):
        degraded = pixel_values[..., part.rows, part.columns].to(model.device)
        found = model(degraded, degradation_embedding=embedding, strength=strength).reconstruction
        restored[..., part.rows, part.columns] += found.float().cpu() * part.weights
        if progress:
            progress(done, len(tiles))
    return DPMambaIROutput(reconstruction=restored, degradation_embedding=embedding)


@torch.no_grad()
def embed_picture(
    extractor: DegradationExtractorModel, pixel_values: torch.Tensor, memory_budget: int = MEMORY_BUDGET
) -> torch.Tensor:
    """Embed whole pictures, strip by strip where the memory is short.

    The embedding is read from means and variances over all positions, and those of strips add up: with enough rows of
    context around each strip the result is the whole picture's, to rounding.

    Args:
        extractor: embeds.
        pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1], on any device.
        memory_budget: what this may take beside extractor and pictures, bytes.

    Returns:
        The embeddings, (B, E).
    """
    batch, _, height, width = pixel_values.shape
    context = SIZE_MULTIPLE * (max(3, *extractor.config.kernel_sizes) // 2 + 1)
    rows = memory_budget // (16 * 4 * extractor.config.channels[0] * width * batch)
    if height <= rows:
        return extractor(pixel_values.to(extractor.device)).degradation_embedding
    rows = max((rows - 2 * context) // SIZE_MULTIPLE, 1) * SIZE_MULTIPLE
    moments: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = [[] for _ in extractor.stages]
    for start in range(0, height, rows):
        top = max(start - context, 0)
        strip = pixel_values[..., top : start + rows + context, :].to(extractor.device)
        x = strip.permute(0, 2, 3, 1).to(extractor.head.weight.dtype)
        for level, stage in enumerate(extractor.stages):
            x = stage(x)
            inner = x[:, (start - top) >> level : (start - top + min(rows, height - start) - 1 >> level) + 1]
            variance, mean = torch.var_mean(inner.float(), (1, 2), correction=0)
            moments[level].append((inner.shape[1], mean, variance))
    statistics = [each for stage in moments for each in _unite(stage)]
    return extractor.head(torch.cat(statistics, -1).to(extractor.head.weight.dtype))


def _unite(moments: list[tuple[int, torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation over all strips from rows, mean and variance of each."""
    counts, means, variances = zip(*moments, strict=True)
    shares = torch.tensor(counts, device=means[0].device)[:, None, None] / sum(counts)
    means, variances = torch.stack(means), torch.stack(variances)
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean) ** 2)).sum(0)
    return mean, torch.sqrt(variance + VARIANCE_EPS)


__all__ = ["MEMORY_BUDGET", "OVERLAP", "Tile", "choose_tile", "embed_picture", "plan_tiles", "restore_tiled"]
