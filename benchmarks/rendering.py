"""What the tables of results share: columns of plain text, Markdown, means and machines.

The file `NAME_table.py` beside a benchmark renders what `NAME.py` wrote. It needs the results alone, not what the
benchmark imports to measure, so that tables can be renewed wherever the package is installed.
"""

from typing import Any

from evaluation.report import ABSENT as ABSENT
from evaluation.report import Grid as Grid
from evaluation.report import format_markdown as format_markdown

# Of a mean that no number holds, such as the PSNR of identical pictures; strict JSON carries null in its place.
NOT_FINITE = "not finite"

# Of the cells that `score_cells` sets.
SCORE_HEADINGS = ("PSNR before (dB)", "after", "gain", "SSIM before", "after", "gain")


def format_columns(grid: Grid) -> str:
    """Set rows as plain text: the first column to the left, the numbers to the right.

    Args:
        grid: rows of as many cells, the headings first.
    """
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = []
    for first, *others in grid:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def format_mean(value: float | None, form: str) -> str:
    """Set a mean, or say that it is not finite.

    Args:
        value: None where no number holds it.
        form: how `format` sets it.
    """
    return NOT_FINITE if value is None else format(value, form)


def describe_machine(machine: dict[str, Any]) -> str:
    """Say on what a results file was measured.

    Args:
        machine: its section `machine`.
    """
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, host "
    processes = f"{machine['processes']} processes of " if machine["processes"] > 1 else ""
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"{device}{machine['cpu']}, {machine['cores']} cores, {processes}{threads}, torch {machine['torch']}"


def score_cells(means: dict[str, Any]) -> list[str]:
    """Bring PSNR and SSIM into cells, as `SCORE_HEADINGS` names them.

    Args:
        means: of `restoration_metrics.scores.compare`.
    """
    cells = []
    for metric, form in (("psnr", ".2f"), ("ssim", ".4f")):
        cells += [format_mean(means[f"{metric}_{moment}"], form) for moment in ("degraded", "restored")]
        cells.append(format_mean(means[f"{metric}_gain"], f"+{form}"))
    return cells


def best_classical(results: dict[str, Any], scores: dict[str, Any], metric: str) -> str:
    """Set the highest score of a classical restoration, and its name; absent where none ran.

    Args:
        results: what `evaluate_accelerate.py` wrote.
        scores: of its methods on a set.
        metric: a PSNR.
    """
    # Of networks of others the results file holds a checksum where it holds settings of classical restorations.
    settings = results["methods"]
    names = [name for name in scores if not settings.get(name, "weights ").startswith("weights ")]
    if not names:
        return ABSENT
    best = max(names, key=lambda name: scores[name][metric])
    return f"{scores[best][metric]:.2f} ({best})"
