"""What `benchmarks.failures` found, as a table."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown, format_mean


def failures_grid(results: dict[str, Any]) -> Grid:
    """Bring the worst restorations of `benchmarks.failures` into rows, the lowest gain first.

    Args:
        results: what it wrote.
    """
    grid = [["degradation", "photograph", "PSNR before (dB)", "after", "gain"]]
    for one in results["worst"]:
        numbers = [f"{one['psnr_degraded']:.2f}", f"{one['psnr_restored']:.2f}", f"{one['psnr_gain']:+.2f}"]
        grid.append([one["task"].replace("_", " "), one["photograph"], *numbers])
    return grid


def render_failures(results: dict[str, Any]) -> str:
    """Render the worst restorations, and what restoring does to pictures that lack nothing.

    Args:
        results: what `benchmarks.failures` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    undamaged = [f"{one['photograph']} {format_mean(one['psnr_restored'], '.2f')}" for one in results["undamaged"]]
    return (
        f"{format_markdown(failures_grid(results))}\n\n"
        f"The lowest gains of `{results['model']['name']}` among {results['pictures']} restorations of free "
        f"photographs, at most one of a degradation;\nseverity {results['severity']:g}, seed {results['seed']}. "
        f"Undamaged photographs come back at these PSNR (dB):\n{', '.join(undamaged)}."
    )
