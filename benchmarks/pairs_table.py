"""What `evaluate_accelerate.py` measured on published test sets: the model alone, and beside other methods."""

from typing import Any

from benchmarks.rendering import SCORE_HEADINGS, Grid, describe_machine, format_markdown, score_cells
from evaluation.report import describe_conditions, detail_grid, overview_grid
from restoration_metrics.scores import compare

# Published test sets as they are known; any other set appears under its own name.
NAMES = {
    "gopro": "GoPro",
    "lol": "LOL",
    "rain100l": "Rain100L",
    "reds": "REDS",
    "reside_sots_indoor": "SOTS indoor",
    "snow100k": "Snow100K",
}


def pairs_grid(results: dict[str, Any]) -> Grid:
    """Bring the model's means into rows, a test set each; those that were degraded here are left out.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    shown = [each for each in results["sets"] if "/" not in each["name"]]
    rows = [
        [name_set(each), str(each["pairs"]), *score_cells(compare(each["scores"], results["model"]["name"]))]
        for each in shown
    ]
    return [["test set", "pairs", *SCORE_HEADINGS], *rows]


def name_set(summary: dict[str, Any]) -> str:
    """Name a test set, what its pictures suffer, and whether it is a sample.

    Args:
        summary: one of `sets` of what `evaluate_accelerate.py` wrote.

    Example:
        >>> name_set({"name": "reds", "task": "blur", "pairs": 30, "published": 3000, "size": [180, 320]})
        'REDS at 320 x 180, sample (blur)'
    """
    size = f" at {summary['size'][1]} x {summary['size'][0]}" if summary["name"] == "reds" and summary["size"] else ""
    sample = "" if summary["published"] in (None, summary["pairs"]) else ", sample"
    task = "" if summary["task"] == "mixed" else f" ({summary['task'].replace('_', ' ')})"
    return f"{NAMES.get(summary['name'], summary['name'])}{size}{sample}{task}"


def render_pairs(results: dict[str, Any]) -> str:
    """Render how much a model restores of published test sets.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        A Markdown table, and the conditions of the measurement.
    """
    model = results["model"]
    return (
        f"{format_markdown(pairs_grid(results))}\n\n"
        f"`{model['name']}` ({model['dtype']}), whole pictures; scores on RGB, 8 bit.\n"
        f"Measured {results['date'][:10]} on {describe_machine(results['machine'])}."
    )


def render_methods(results: dict[str, Any]) -> str:
    """Render what all methods reach on published test sets, beside the paper's figures.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        Two Markdown tables, and the conditions of the measurement.
    """
    return (
        f"{format_markdown(overview_grid(results))}\n\n{format_markdown(detail_grid(results))}\n\n"
        f"{describe_conditions(results)}\n"
        f"Measured {results['date']} on {describe_machine(results['machine'])}."
    )
