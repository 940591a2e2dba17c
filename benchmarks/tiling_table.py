"""What `benchmarks.tiling` measured, as a table."""

import itertools
from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown


def tiling_grid(results: dict[str, Any]) -> Grid:
    """Bring the mean and the worst of each overlap into rows.

    Args:
        results: what `benchmarks.tiling` wrote.
    """
    rows = [["overlap", "tiles", "PSNR mean (dB)", "worst", "seam, worst"]]
    for overlap, way in itertools.product(results["records"][0]["overlaps"], ("share", "apart")):
        found = [one["overlaps"][overlap][way] for one in results["records"]]
        psnrs = [one["psnr"] for one in found]
        seam = f"{max(one['seam'] for one in found):.2f}"
        rows.append([overlap, way, f"{sum(psnrs) / len(psnrs):.2f}", f"{min(psnrs):.2f}", seam])
    return rows


def render_tiling(results: dict[str, Any]) -> str:
    """Render how far tiled results are from whole ones: a Markdown table, and its conditions.

    Args:
        results: what `benchmarks.tiling` wrote.
    """
    return (
        f"{format_markdown(tiling_grid(results))}\n\n"
        f"PSNR between tiled and whole results of `{results['model']}`, {len(results['records'])} degraded pictures "
        f"of {results['side']} x {results['side']}.\nTiles share the whole picture's embedding, means and states, or "
        "are restored apart. A seam is the size of the error where tiles meet, over that elsewhere.\n"
        f"Measured on {describe_machine(results['machine'])}."
    )
