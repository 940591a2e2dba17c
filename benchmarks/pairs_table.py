"""What `evaluate_accelerate.py` measured on published test sets: the model alone, and beside other methods."""

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
from evaluation.report import describe_conditions, detail_grid, list_specialists, overview_grid
from restoration_metrics.scores import DEGRADED, compare

# Published test sets as they are known; any other set appears under its own name.
NAMES = {
    "cbsd68/noise_sigma25": "CBSD68, sigma 25",
    "gopro": "GoPro",
    "live1/jpeg_q20": "LIVE1, quality 20",
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


def rivals_grid(results: dict[str, Any]) -> Grid:
    """Set the model's PSNR beside the best of what was made for the degradation, a row for each test set.

    Args:
        results: what `evaluate_accelerate.py` wrote; sets that it compares with nothing are left out.

    Returns:
        Rows of PSNR in dB, of the channels that the published figures are of.
    """
    model = results["model"]["name"]
    grid = [["test set", "pairs", "of", "degraded", model, "best classical method", "published specialists"]]
    for each in results["sets"]:
        specialists, scores = list_specialists(each["name"]), each["scores"]
        channels = specialists[0]["channels"] if specialists else "RGB"
        metric = {"RGB": "psnr", "Y": "psnr_y"}[channels]
        published = ", ".join(map(_format_specialist, specialists)) or ABSENT
        rivals = [best_classical(results, scores, metric), published]
        if rivals != [ABSENT, ABSENT]:
            whole = "" if each["published"] in (None, each["pairs"]) else f" of {each['published']}"
            own = [format_mean(scores[method][metric], ".2f") for method in (DEGRADED, model)]
            grid.append([name_set(each | {"published": None}), f"{each['pairs']}{whole}", channels, *own, *rivals])
    return grid


def _format_specialist(specialist: dict[str, Any]) -> str:
    return f"{specialist['psnr']:.2f} ({specialist['name']}, {specialist['parameters'] / 1e6:.2g} M)"


def list_sources(results: dict[str, Any]) -> str:
    """List in Markdown where the published figures of `rivals_grid` were read, and what is particular about them.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    specialists = [each for summary in results["sets"] for each in list_specialists(summary["name"])]
    lines = [(f"- {each['name']}: {each['source']}", each["conditions"]) for each in specialists]
    return "\n".join("; ".join(filter(None, line)) for line in lines)


def render_rivals(results: dict[str, Any]) -> str:
    """Render what a model reaches on published test sets beside methods that were made for the degradation.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        A Markdown table, what its figures are, and the sources of those that are published.
    """
    model = results["model"]
    return (
        f"{format_markdown(rivals_grid(results))}\n\n"
        f"PSNR (dB). `{model['name']}` has {model['parameters'] / 1e6:.2f} M parameters; behind the other networks "
        "stand theirs.\nPublished figures are of all pairs of a test set, ours of those in the column *pairs*:\n\n"
        f"{list_sources(results)}"
    )


def render_methods(results: dict[str, Any]) -> str:
    """Render what all methods reach on published test sets, beside the figures of others.

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
