"""What the extractor measures of pictures and features: moments, profiles, windows; and the norm of it all."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

# Under the root of a variance: keeps the gradient finite where a channel is constant.
VARIANCE_EPS = 1e-6
KURTOSIS_EPS = 1e-12
PROFILE_EPS = 1e-4
# Side of the squares that a JPEG with halved chroma codes at once; blocks of luma have half of it.
GRID = 16
# Luma and two chromas of RGB, Rec. 601, as JPEG has them.
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
# Share of the last batch in a running mean, once many have been seen.
LEAST_SHARE = 0.02


class RunningNorm(nn.Module):
    """Bring statistics to mean 0 and deviation 1 by what they were in training so far, a batch of any size.

    The batch's own mean plays no part, so that a picture's embedding is the same in training and after it.

    Args:
        width: number of statistics.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float32))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float32))
        self.register_buffer("variance", torch.ones(width, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Standardise (B, S), float32; while it trains, first learn from them."""
        if self.training and torch.is_grad_enabled():
            self._learn(x.detach())
        return (x - self.mean) * torch.rsqrt(self.variance + VARIANCE_EPS)

    @torch.no_grad()
    def _learn(self, x: torch.Tensor) -> None:
        self.count += 1
        share = (1 / self.count).clamp(min=LEAST_SHARE)
        variance, mean = torch.var_mean(x, 0, correction=0)
        known = torch.where(self.count > 1, self.variance, 0)
        self.variance.copy_((1 - share) * known + share * (variance + (1 - share) * (mean - self.mean) ** 2))
        self.mean.lerp_(mean, share)


class Profiles(NamedTuple):
    """How far neighbouring pixels differ, by where they lie.

    Attributes:
        across: between columns, the mean over all rows, (B, 3, W - 1): of luma and two chromas.
        down: between rows, the mean over all columns, (B, 3, H - 1).
    """

    across: torch.Tensor
    down: torch.Tensor


def measure_profiles(pixel_values: torch.Tensor) -> Profiles:
    """Measure the mean absolute differences between neighbouring columns and rows of pictures, (B, 3, H, W)."""
    matrix = torch.tensor(YCBCR, dtype=torch.float32, device=pixel_values.device)
    with torch.autocast(pixel_values.device.type, enabled=False):
        colours = torch.einsum("kc,bchw->bkhw", matrix, pixel_values.float())
        across = (colours[..., 1:] - colours[..., :-1]).abs().mean(2)
        down = (colours[..., 1:, :] - colours[..., :-1, :]).abs().mean(3)
    return Profiles(across, down)


def find_grid(profile: torch.Tensor) -> torch.Tensor:
    """Tell how regularly differences along one side recur: large where a codec's blocks meet.

    Args:
        profile: of `Profiles`, (B, 3, L).

    Returns:
        The logarithms of the means at each place modulo 16, the size of a JPEG's squares, above their own mean, in
        descending order, so that it does not matter where the grid begins; (B, 48).
    """
    length = profile.shape[-1]
    place = torch.arange(length, device=profile.device) % GRID
    is_there = (place[:, None] == torch.arange(GRID, device=profile.device)).float()  # (L, 16)
    counts = is_there.sum(0)
    means = profile @ is_there / counts.clamp(min=1)
    # Sides shorter than the grid leave places empty; these take the mean of the others.
    average = means.sum(-1, keepdim=True) / counts.clamp(max=1).sum().clamp(min=1)
    levels = torch.log(torch.where(counts > 0, means, average) + PROFILE_EPS)
    return (levels - levels.mean(-1, keepdim=True)).sort(-1, descending=True).values.flatten(1)


def plan_windows(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """Say into which equal windows of about a side a picture is cut, between two thirds of it and one and a half.

    Args:
        height: of the picture, pixels; fewer last rows than there are rows of windows may be left out.
        width: likewise.
        side: pixels.

    Returns:
        How many windows stand one below the other and side by side, and their height and width, pixels.
    """
    # `sym_max`: sizes are symbols while a program for any size is traced.
    rows, columns = (torch.sym_max(1, (length + side // 2) // side) for length in (height, width))
    return rows, columns, height // rows, width // columns


def split_windows(pixel_values: torch.Tensor, side: int) -> torch.Tensor:
    """Cut pictures into windows, (B, C, H, W) -> (B * windows, C, H', W'), the windows of each picture in turn."""
    batch, channels, *size = pixel_values.shape
    rows, columns, height, width = plan_windows(*size, side)
    cut = pixel_values[..., : rows * height, : columns * width]
    grid = cut.reshape(batch, channels, rows, height, columns, width)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch * rows * columns, channels, height, width)


class Moments(NamedTuple):
    """Central moments of features over all positions, float32, (B, C) each."""

    mean: torch.Tensor
    variance: torch.Tensor
    fourth: torch.Tensor


def measure_moments(x: torch.Tensor, *, has_fourth: bool) -> Moments:
    """Measure the moments of features (B, H, W, C); the fourth is empty where it is not asked for."""
    variance, mean = torch.var_mean(x, (1, 2), correction=0)
    if not has_fourth:
        return Moments(mean, variance, mean[:, :0])
    return Moments(mean, variance, (x - mean[:, None, None]).square().square().mean((1, 2)))


def refine(moments: Sequence[Moments], profiles: Profiles) -> torch.Tensor:
    """Bring together what tells degradations apart: grids of the profiles, means, deviations and kurtosis, (B, S).

    Args:
        moments: of the features after each stage, with the fourth.
        profiles: of the pictures.
    """
    statistics = [find_grid(profiles.across), find_grid(profiles.down)]
    for one in moments:
        # A tensor: ONNX's exporter takes the addition of so small a number for none, and drops it.
        floor = torch.full_like(one.variance, KURTOSIS_EPS)
        kurtosis = torch.log((one.fourth + floor) / (one.variance.square() + floor))
        statistics += [one.mean, 0.5 * torch.log(one.variance + VARIANCE_EPS), kurtosis]
    return torch.cat(statistics, -1)
