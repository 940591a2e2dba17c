"""What `benchmarks.large` measured, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown


def large_grid(results: dict[str, Any]) -> Grid:
    """Bring the runs of `benchmarks.large` into rows, a picture and a network each.

    Args:
        results: what it wrote.
    """
    grid = [["picture", "megapixels", "network", "options", "seconds", "GiB"]]
    for one in results["records"]:
        megapixels = one["width"] * one["height"] / 1e6
        size = f"{one['width']} x {one['height']}"
        run = [size, f"{megapixels:.1f}", one["network"], f"`{one['options']}`" if one["options"] else "-"]
        grid.append([*run, f"{one['seconds']:.0f}", f"{one['memory'] / 2**30:.2f}"])
    return grid


def render_large(results: dict[str, Any]) -> str:
    """Render what large pictures take from file to file.

    Args:
        results: what `benchmarks.large` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    return (
        f"{format_markdown(large_grid(results))}\n\n"
        "`dpmambair-restore` in float32, a process for each picture: imports, weights, decoding, restoring, "
        "encoding.\n"
        "NAFNet-32 of spandrel in tiles of 512 x 512, float32. "
        f"Measured on {describe_machine(results['machine'])}."
    )
