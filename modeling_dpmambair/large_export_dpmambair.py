"""A restorer in three parts for programs elsewhere, which put large pictures together as `restore_tiled` does.

| part | from | to |
|---|---|---|
| `StripMeasures` | a strip of the picture, or a window | what the extractor measures of it |
| `PictureEmbedding` | the measures of all strips, or windows | embedding and description |
| `TileRestorer` | a tile, the embedding, and what the tiles before it left | the tile restored, and what it leaves |

All take and return tensors, of one picture. `restore_in_parts` says how they go together; the page that restores in a
browser does the same in JavaScript.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .block_dpmambair import PromptedScan
from .extractor_statistics_dpmambair import Moments, Profiles, measure_profiles, split_windows
from .large_pictures_dpmambair import (
    EMBEDDED_CONTEXTS,
    EMBEDDED_PIXELS,
    MEANS_TOLERANCE,
    MOST_CORRECTIONS,
    embedding_context,
    lay_out_sheet,
    padded_size,
    unite_moments,
)
from .large_plan_dpmambair import GRID, Span, Tile, plan_tiles
from .layers_dpmambair import HighFrequencyEnhancement
from .modeling_dpmambair import DPMambaIRModel
from .selective_scan_dpmambair import apply_prompts
from .selective_scan_export_dpmambair import RowStates, selective_scan_rows

# A part by its name, on tensors by theirs.
Run = Callable[..., dict[str, torch.Tensor]]


class StripMeasures(nn.Module):
    """Measure a strip as `embed_picture` does.

    Args:
        model: with an extractor.
    """

    def __init__(self, model: DPMambaIRModel) -> None:
        super().__init__()
        self.extractor = model.extractor
        self.has_fine = model.config.extractor_config.has_fine_statistics

    def forward(self, pixel_values: torch.Tensor, start: torch.Tensor, count: torch.Tensor) -> dict[str, torch.Tensor]:
        """Measure the rows of a strip that are its own.

        Args:
            pixel_values: strip with the rows around it, (1, 3, H, W), RGB in [0, 1].
            start: its first row, a multiple of 8, integer without dimensions.
            count: its rows, likewise.

        Returns:
            `rows`, how many the features of each stage have, (1, T), and `moments` of them, mean, variance, third and
            fourth, (1, 4, C); with fine statistics also the picture's profiles, `across`, (1, 3, W - 1), of the
            strip's own rows, and `down`, (1, 3, H - 1), of all.
        """
        x, rows, moments = pixel_values.permute(0, 2, 3, 1), [], []
        for level, stage in enumerate(self.extractor.stages):
            x = stage(x)
            first, last = start // 2**level, (start + count - 1) // 2**level
            place = torch.arange(x.shape[1], device=x.device)
            is_own = ((place >= first) & (place <= last)).float()
            rows.append((last - first + 1).float())
            moments.append(self._measure(x[0], is_own / rows[-1]))
        measures = {"rows": torch.stack(rows)[None], "moments": torch.cat(moments, 1)[None]}
        if self.has_fine:
            place = torch.arange(pixel_values.shape[2], device=x.device)
            is_own = ((place >= start) & (place < start + count)).float()
            # Of the same strip: the mean over some rows is a product with their shares.
            across = _absolute_differences(pixel_values)
            _, down = measure_profiles(pixel_values)
            measures |= {"across": (is_own / count) @ across, "down": down}
        return measures

    def _measure(self, x: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        def average(values: torch.Tensor) -> torch.Tensor:
            return shares @ values.mean(1)

        mean = average(x)
        offset = x - mean
        square = offset * offset
        higher = [average(square * offset), average(square * square)] if self.has_fine else [mean, mean]
        return torch.stack([mean, average(square), *higher])


def _absolute_differences(pixel_values: torch.Tensor) -> torch.Tensor:
    """Return how far columns differ in each row, (1, 3, H, W - 1): `measure_profiles` of rows as pictures."""
    rows = pixel_values[0].transpose(0, 1)[:, :, None]  # (H, 3, 1, W)
    across, _ = measure_profiles(rows)
    return across.transpose(0, 1)[None]


class PictureEmbedding(nn.Module):
    """Embed a picture from the measures of its strips or windows, and describe it where the model does.

    Args:
        model: with an extractor.
    """

    def __init__(self, model: DPMambaIRModel) -> None:
        super().__init__()
        self.extractor = model.extractor
        self.description_head = model.description_head if model.config.has_description else None

    def forward(
        self,
        rows: torch.Tensor,
        moments: torch.Tensor,
        across: torch.Tensor | None = None,
        down: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Embed.

        Args:
            rows: of all strips or windows S, (S, T).
            moments: likewise, (S, 4, C).
            across: likewise, (S, 3, W - 1), with fine statistics only.
            down: of the picture, (1, 3, H - 1): the strips' own rows, one after the other; of windows (S, 3, H - 1).

        Returns:
            `degradation_embedding`, (1, E); of a model that describes also `presence` and `severity`, (1, K).
        """
        config = self.extractor.config
        has_windows, has_fine = config.window is not None, config.has_fine_statistics
        found = []
        for counts, measured in zip(rows.unbind(1), moments.split(config.channels, 2), strict=True):
            mean, variance, third, fourth = measured.unbind(1)
            if not has_fine:
                third = fourth = mean[..., :0]
            if has_windows:
                found.append(Moments(mean, variance, fourth))
            else:
                strips = Moments(mean[:, None], variance[:, None], fourth[:, None])
                found.append(unite_moments(counts, strips, third[:, None]))
        if has_fine and not has_windows:
            shares = rows[:, 0] / rows[:, 0].sum()
            across = (shares[:, None, None] * across).sum(0, keepdim=True)
        embedding = self.extractor.embed(found, Profiles(across, down) if has_fine else None).mean(0, keepdim=True)
        said = {}
        if self.description_head is not None:
            presence, severity = self.description_head(embedding)
            said = {"presence": presence.sigmoid(), "severity": severity.sigmoid()}
        return {"degradation_embedding": embedding, **said}


class Exchange:
    """What a tile takes over, and what it leaves, while the network runs.

    Attributes:
        rows: where the tile's rows enter and leave, (2,).
        columns: likewise of its columns, (2,).
        seams: rows where states enter (-1: at none but the first), leave, and leave for the next tile's first, (3,).
        knows_means: whether the means of the picture are known, else the tile's own are taken.
        means: of the picture, for the enhancements (HEB) one after the other, (M,).
        states: that enter the scans, one after the other, (2, S).
        found_means: of the tile's inner part, each (C,).
        found_states: that leave the scans, each (2, D N).
    """

    def begin(self, **given: torch.Tensor) -> None:
        """Take what is given to a tile, by the names of the attributes."""
        vars(self).update(given)
        self.found_means: list[torch.Tensor] = []
        self.found_states: list[torch.Tensor] = []

    def take_mean(self, channels: int) -> torch.Tensor:
        """Return the picture's mean for the enhancement that asks, (C,)."""
        start = sum(len(each) for each in self.found_means)
        return self.means[start : start + channels]

    def take_states(self, channels: int, states: int) -> torch.Tensor:
        """Return the states that enter the scan that asks, (2, D, N)."""
        start = sum(each.shape[1] for each in self.found_states)
        return self.states[:, start : start + channels * states].view(2, channels, states)


class ExchangingScan(nn.Module):
    """A scan that takes over states from the tile above and leaves them to the next."""

    def __init__(self, scan: PromptedScan, exchange: Exchange, scale: int) -> None:
        super().__init__()
        self.scan, self.exchange, self.scale = scan, exchange, scale

    def forward(self, x: torch.Tensor, gate: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Scan row-major: branches F1 and F2, (1, H, W, D), to (1, H, W, D)."""
        u, dt, B, C = self.scan.project(x)
        A, D, kind = self.scan.compute_constants(embedding)
        delta, B, C = apply_prompts(dt, B, C, kind["dt_bias"], kind["prompts"])
        entering = self.exchange.take_states(*A.shape)
        states = RowStates(entering, torch.div(self.exchange.seams, self.scale, rounding_mode="floor"))
        rows = (each.unflatten(1, x.shape[1:3])[0] for each in (u, delta, B, C))
        u, delta, B, C = rows
        is_held = kind["discretization"] == "zoh"
        y, leaving = selective_scan_rows(u, delta, A, B, C, D, states=states, is_held=is_held)
        self.exchange.found_states.append(leaving.flatten(1))
        return self.scan.norm(y[None], gate)


class ExchangingEnhancement(nn.Module):
    """HEB around the means of the picture, or of the tile where those are not known."""

    def __init__(self, heb: HighFrequencyEnhancement, exchange: Exchange, scale: int) -> None:
        super().__init__()
        self.heb, self.exchange, self.scale = heb, exchange, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Enhance, (1, H, W, C) -> (1, H, W, C)."""
        shares = (
            _inner_shares(size, bounds // self.scale, x)
            for size, bounds in zip(x.shape[1:3], (self.exchange.rows, self.exchange.columns), strict=True)
        )
        down, across = shares
        own = down @ (across @ x[0])
        mean = torch.where(self.exchange.knows_means > 0, self.exchange.take_mean(x.shape[3]), own)
        self.exchange.found_means.append(own)
        return x + self.heb.scale * (x - mean)


def _inner_shares(size: int, bounds: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the shares of rows (or columns) in the mean over those within bounds, (size,)."""
    place = torch.arange(size, device=like.device)
    is_inner = ((place >= bounds[0]) & (place < bounds[1])).to(like.dtype)
    return is_inner / (bounds[1] - bounds[0])


class TileRestorer(nn.Module):
    """Restore tile after tile, from the top of the picture: a model that shares the weights of another.

    Args:
        model: owner of the weights; it stays as it is.

    Attributes:
        means: numbers in the means that tiles share.
        states: numbers in the states that go on from tile to tile.
    """

    def __init__(self, model: DPMambaIRModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model, {id(each): each for each in (*model.parameters(), *model.buffers())})
        self.exchange, network = Exchange(), self.model.network
        self.means = self.states = 0
        levels = zip((*network.encoder, network.latent, *network.decoder), (0, 1, 2, 3, 2, 1, 0), strict=True)
        for stage, level in (*levels, (network.refinement, 0)):
            for block in stage.blocks:
                self._prepare(block, 2**level)

    def _prepare(self, block: nn.Module, scale: int) -> None:
        if block.mixer is None:
            return
        self.states += block.mixer.scan.A_log.numel()
        if isinstance(block.heb, HighFrequencyEnhancement):
            self.means += block.mixer.out_proj.out_features
            block.heb = ExchangingEnhancement(block.heb, self.exchange, scale)
        block.mixer.scan = ExchangingScan(block.mixer.scan, self.exchange, scale)

    def forward(
        self,
        pixel_values: torch.Tensor,
        degradation_embedding: torch.Tensor,
        *,
        rows: torch.Tensor,
        columns: torch.Tensor,
        seams: torch.Tensor,
        means: torch.Tensor,
        knows_means: torch.Tensor,
        states: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Restore a tile.

        Args:
            pixel_values: the tile, (1, 3, H, W), RGB in [0, 1].
            degradation_embedding: of the picture, (1, E).
            rows: as in `Exchange`, in pixels from the tile's own start, integers.
            columns: likewise.
            seams: likewise.
            means: as in `Exchange`.
            knows_means: 1 or 0, without dimensions.
            states: as in `Exchange`; zeros at the top of the picture.

        Returns:
            `reconstruction`, (1, 3, H, W), not clamped; `found_means` of the tile's inner part, (M,), and
            `found_states`, which enter the next tile, (2, S).
        """
        places = {"rows": rows, "columns": columns, "seams": seams}
        self.exchange.begin(**places, means=means, knows_means=knows_means, states=states)
        restored = self.model(pixel_values, degradation_embedding=degradation_embedding).reconstruction
        found_states = torch.cat(self.exchange.found_states, 1)
        found_means = torch.cat([*self.exchange.found_means, means[:0]])
        return {"reconstruction": restored, "found_means": found_means, "found_states": found_states}


def embed_in_parts(
    measure: Run, embed: Run, pixel_values: torch.Tensor, context: int, window: int | None
) -> dict[str, torch.Tensor]:
    """Embed a picture, (1, 3, H, W), window by window, or strip by strip where it is large.

    Args:
        measure: a `StripMeasures`.
        embed: a `PictureEmbedding`.
        pixel_values: the picture, RGB in [0, 1].
        context: rows around a strip that it depends on.
        window: the extractor's.

    Returns:
        As `PictureEmbedding`.
    """
    if window is not None:
        windows = split_windows(pixel_values, window)
        start, count = (torch.tensor(each, dtype=torch.int32) for each in (0, windows.shape[2]))
        measured = [measure(pixel_values=each, start=start, count=count) for each in windows.split(1)]
        return embed(**{name: torch.cat([each[name] for each in measured]) for name in measured[0]})
    height, width = pixel_values.shape[2:]
    rows = max(EMBEDDED_PIXELS // width, EMBEDDED_CONTEXTS * context)
    rows = height if height <= rows else (rows - 2 * context) // GRID * GRID
    strips = []
    for start in range(0, height, rows):
        top, own = max(start - context, 0), min(rows, height - start)
        place = (torch.tensor(each, dtype=torch.int32) for each in (start - top, own))
        strip = pixel_values[:, :, top : start + own + (context if start + own < height else 0)]
        measures = measure(pixel_values=strip, **dict(zip(("start", "count"), place, strict=True)))
        if "down" in measures:
            measures["down"] = measures["down"][..., start - top : start - top + own]
        strips.append(measures)
    names = strips[0].keys()
    return embed(**{name: torch.cat([each[name] for each in strips], -1 if name == "down" else 0) for name in names})


def restore_in_parts(
    restore: Run,
    pixel_values: torch.Tensor,
    embedding: torch.Tensor,
    sizes: dict[str, int],
    tile: tuple[int, int] | None = None,
    overlap: int = 0,
) -> torch.Tensor:
    """Restore a picture, (1, 3, H, W), as `restore_tiled` does.

    Args:
        restore: a `TileRestorer`.
        pixel_values: the picture, RGB in [0, 1].
        embedding: of the picture, (1, E).
        sizes: how many `means` and `states` there are.
        tile: largest height and width of a tile, pixels, multiples of 8; None for the whole picture.
        overlap: of neighbouring tiles, pixels, a multiple of 16.
    """
    height, width = pixel_values.shape[2:]
    tile = tile or padded_size(height, width)
    tiles, is_carried = plan_tiles(height, width, tile, overlap), tile[1] >= width

    def run(pictures: torch.Tensor, parts: list[Tile], means: torch.Tensor | None) -> Iterator[dict[str, Any]]:
        states = torch.zeros(2, sizes["states"])
        given = {"means": torch.zeros(sizes["means"]) if means is None else means}
        given["knows_means"] = torch.tensor(float(means is not None))
        for part in parts:
            places = _find_places(part, has_seam=is_carried and part.rows.enter > 0)
            found = restore(
                pixel_values=part.of(pictures), degradation_embedding=embedding, states=states, **given, **places
            )
            states = found["found_states"] if is_carried else states
            yield found

    def average(found_means: list[torch.Tensor], parts: list[Tile]) -> torch.Tensor:
        areas = torch.tensor([float(part.rows.inner_size * part.columns.inner_size) for part in parts])
        return areas @ torch.stack(found_means) / areas.sum()

    def measure(pictures: torch.Tensor, parts: list[Tile], means: torch.Tensor | None) -> torch.Tensor:
        return average([found["found_means"] for found in run(pictures, parts, means)], parts)

    def blend(means: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        restored, found_means = torch.zeros_like(pixel_values), []
        for part, found in zip(tiles, run(pixel_values, tiles, means), strict=True):
            part.of(restored).add_(found["reconstruction"] * part.weights)
            found_means.append(found["found_means"])
        return restored, average(found_means, tiles)

    if len(tiles) == 1 or not sizes["means"]:
        return blend(None)[0]
    sheet = lay_out_sheet(pixel_values, tiles[0])
    rows, columns = sheet.shape[2:]
    whole = plan_tiles(rows, columns, padded_size(rows, columns), 0)
    of_sheet = measure(sheet, whole, None)
    seen = measure(pixel_values, tiles, of_sheet)
    for correction in range(MOST_CORRECTIONS + 1):
        means = seen + measure(sheet, whole, seen) - of_sheet
        restored, seen = blend(means)
        if correction == MOST_CORRECTIONS or (seen - means).abs().max() <= MEANS_TOLERANCE:
            break
        of_sheet = measure(sheet, whole, means)
    return restored


def _find_places(tile: Tile, *, has_seam: bool) -> dict[str, torch.Tensor]:
    """Return the places that `Exchange` takes, from the tile's own start."""

    def of(span: Span, *places: int) -> torch.Tensor:
        return torch.tensor(places, dtype=torch.int32) - span.start

    rows, columns = tile.rows, tile.columns
    seams = of(rows, rows.enter if has_seam else rows.start - 1, rows.leave, rows.following)
    return {
        "rows": of(rows, rows.enter, rows.leave),
        "columns": of(columns, columns.enter, columns.leave),
        "seams": seams,
    }


__all__ = [
    "PictureEmbedding",
    "StripMeasures",
    "TileRestorer",
    "embed_in_parts",
    "embedding_context",
    "restore_in_parts",
]
