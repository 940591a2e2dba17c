"""What `benchmarks.export` measured, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown


def export_grid(results: dict[str, Any]) -> Grid:
    """Bring the exported files of `benchmarks.export` into rows, the model itself first.

    Args:
        results: what it wrote.
    """
    sides = list(results["files"][0]["seconds"])
    timed = [f"{side} x {side} (s)" for side in sides]
    grid = [["file", "size (MiB)", "PSNR (dB)", "loss (dB)", "against the model (dB)", *timed]]
    for one in results["files"]:
        if "refused" in one:
            grid.append([one["name"], "refused", *["-"] * (3 + len(sides))])
            continue
        quality = ["-", "-"] if "loss" not in one else [f"{one['loss']:.3f}", f"{one['lowest']:.1f}"]
        seconds = [f"{one['seconds'][side]:.2f}" for side in sides]
        grid.append([one["name"], f"{one['bytes'] / 2**20:.2f}", f"{one['psnr']:.2f}", *quality, *seconds])
    return grid


def render_export(results: dict[str, Any]) -> str:
    """Render what exporting costs.

    Args:
        results: what `benchmarks.export` wrote.

    Returns:
        A Markdown table, its conditions, and why files were refused.
    """
    refused = [f"{one['name']}: {one['refused']}." for one in results["files"] if "refused" in one]
    text = (
        f"{format_markdown(export_grid(results))}\n\n"
        f"`{results['model']['name']}` on {results['pictures']} pictures: free photographs, each degraded in every "
        f"way at severity {results['severity']:g}, seed {results['seed']}.\n"
        "PSNR is the mean against the clean photographs, the loss how much lower it is than the model's own; against\n"
        "the model, the lowest of a picture. Times are medians of one picture. "
        f"Measured {results['date'][:10]} on\n{describe_machine(results['machine'])}."
    )
    return "\n\n".join([text, *refused])
