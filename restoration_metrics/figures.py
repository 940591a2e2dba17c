"""Figures for results: bar plots of gains and pictures joined for comparison."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from PIL import Image

GAP = 4


def draw_gains(gains: Mapping[str, float], label: str) -> Figure:
    """Draw one bar per task.

    Args:
        gains: metric's gain by task, in the order to draw; a gain that is not finite is written without a bar.
        label: metric and unit, for the vertical axis.

    Returns:
        The figure, to be saved by the caller.
    """
    figure = Figure(figsize=(max(8, len(gains)), 4), layout="constrained")
    axes = figure.subplots()
    heights = [gain if math.isfinite(gain) else 0.0 for gain in gains.values()]
    bars = axes.bar(list(gains), heights, color=["tab:blue" if gain >= 0 else "tab:red" for gain in heights])
    axes.bar_label(bars, labels=[f"{gain:+.2f}" for gain in gains.values()], padding=2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(label)
    if max(map(len, gains)) > 9:  # names of corpora and of composites are longer than a bar is wide
        axes.set_xticks(range(len(gains)), list(gains), rotation=30, ha="right", rotation_mode="anchor")
    axes.margins(y=0.15)
    return figure


def join_pictures(pictures: Sequence[Image.Image], *, vertical: bool = False) -> Image.Image:
    """Put pictures side by side, or one below the other, on white.

    Args:
        pictures: at least one, of any sizes, RGB.
        vertical: one below the other.

    Returns:
        One picture, RGB.
    """
    widths, heights = zip(*(picture.size for picture in pictures), strict=True)
    gaps = GAP * (len(pictures) - 1)
    size = (max(widths), sum(heights) + gaps) if vertical else (sum(widths) + gaps, max(heights))
    joined, position = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        joined.paste(picture, (0, position) if vertical else (position, 0))
        position += (picture.height if vertical else picture.width) + GAP
    return joined
