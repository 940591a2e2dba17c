"""What `evaluate_accelerate.py` measured on a benchmark: how much restoring gains, and how often it loses."""

from typing import Any

from benchmarks.rendering import (
    ABSENT,
    SCORE_HEADINGS,
    Grid,
    best_classical,
    describe_machine,
    format_markdown,
    format_mean,
    score_cells,
)
from restoration_metrics.scores import compare

CLASSICAL_HEADING = "best classical PSNR"


def quality_grid(results: dict[str, Any]) -> Grid:
    """Bring the averages of `evaluate_accelerate.py` into rows, a task each, then all together.

    Args:
        results: what it wrote; where classical methods ran, the best one stands beside the model.
    """
    scores = {each["name"]: each["scores"] for each in results["sets"]} | {"overall": results["overall"]}
    grid = [
        ["degradation", *SCORE_HEADINGS],
        *([_spell(task), *score_cells(compare(own, results["model"]["name"]))] for task, own in scores.items()),
    ]
    classical = [best_classical(results, own, "psnr") for own in scores.values()]
    if set(classical) != {ABSENT}:
        grid = [[*row, cell] for row, cell in zip(grid, [CLASSICAL_HEADING, *classical], strict=True)]
    return grid


def _spell(task: str) -> str:
    return task.replace("_", " ").replace("+", " + ")


def render_quality(results: dict[str, Any]) -> str:
    """Render how much a model restores.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        A Markdown table, and the conditions of the measurement.
    """
    benchmark, model = results["benchmark"], results["model"]
    # An unreadable file is missing from every task alike.
    pictures, unreadable = results["sets"][0]["pairs"], len(set().union(*results["failures"].values()))
    failures = f" ({unreadable} more were unreadable)" if unreadable else ""
    grid = quality_grid(results)
    told = " Classical methods are told the degradation." if CLASSICAL_HEADING in grid[0] else ""
    return (
        f"{format_markdown(grid)}\n\n"
        f"`{model['name']}` ({model['parameters'] / 1e6:.2f} M parameters, {model['dtype']}) on "
        f"`{benchmark['name']}`: {pictures} clean pictures of `{benchmark['clean']}`{failures},\n"
        f"each degraded in each way at severity {benchmark['severity']:g}, seed {benchmark['seed']}; "
        f"scores on RGB, 8 bit.{told}\n"
        f"Measured {results['date'][:10]} on {describe_machine(results['machine'])}."
    )


def losses_grid(results: dict[str, Any]) -> Grid:
    """Count in rows, a task each, how often a restoration is worse than what it was made of, and by how much.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    grid = [["degradation", "pictures", "made worse", "lowest gain (dB)", "median gain (dB)", "highest gain (dB)"]]
    for each in results["sets"]:
        gains = each["scores"][results["model"]["name"]]["psnr_gains"]
        shown = [format_mean(gains[name], "+.2f") for name in ("lowest", "median", "highest")]
        grid.append([_spell(each["name"]), str(each["pairs"]), str(gains["worse"]), *shown])
    return grid


def render_losses(results: dict[str, Any]) -> str:
    """Render how often a model makes a picture worse.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        A Markdown table.
    """
    return format_markdown(losses_grid(results))
