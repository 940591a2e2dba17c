"""What `evaluate_accelerate.py` measured, as two tables: how much restoring gains, and how often it loses."""

from statistics import median
from typing import Any

from benchmarks.rendering import SCORE_HEADINGS, Grid, describe_machine, format_markdown, score_cells


def quality_grid(results: dict[str, Any]) -> Grid:
    """Bring the averages of `evaluate_accelerate.py` into rows, a task each, then all together.

    Args:
        results: what it wrote.
    """
    tasks = results["tasks"] | {"overall": results["overall"]}
    return [
        ["degradation", *SCORE_HEADINGS],
        *([task.replace("_", " "), *score_cells(means)] for task, means in tasks.items()),
    ]


def render_quality(results: dict[str, Any]) -> str:
    """Render how much a model restores.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        A Markdown table, and the conditions of the measurement.
    """
    benchmark, model = results["benchmark"], results["model"]
    # Unreadable files are missing from every task alike.
    pictures = results["overall"]["pictures"] // len(results["tasks"])
    failures = f" ({len(benchmark['failures'])} more were unreadable)" if benchmark["failures"] else ""
    return (
        f"{format_markdown(quality_grid(results))}\n\n"
        f"`{model['name']}` ({model['parameters'] / 1e6:.2f} M parameters, {model['dtype']}) on "
        f"`{benchmark['name']}`: {pictures} clean pictures of `{benchmark['clean']}`{failures},\n"
        f"each degraded in each way at severity {benchmark['severity']:g}, seed {benchmark['seed']}; "
        "scores on RGB, 8 bit.\n"
        f"Measured {results['date'][:10]} on {describe_machine(results['machine'])}."
    )


def losses_grid(results: dict[str, Any]) -> Grid:
    """Count in rows, a task each, how often a restoration is worse than what it was made of, and by how much.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    grid = [["degradation", "pictures", "made worse", "lowest gain (dB)", "median gain (dB)", "highest gain (dB)"]]
    for task in results["tasks"]:
        gains = sorted(one["psnr_gain"] for one in results["images"] if one["task"] == task)
        shown = (gains[0], median(gains), gains[-1])
        cells = [str(len(gains)), str(sum(gain < 0 for gain in gains)), *(f"{gain:+.2f}" for gain in shown)]
        grid.append([task.replace("_", " "), *cells])
    return grid


def render_losses(results: dict[str, Any]) -> str:
    """Render how often a model makes a picture worse.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        A Markdown table.
    """
    return format_markdown(losses_grid(results))
