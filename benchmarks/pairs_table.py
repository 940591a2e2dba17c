"""What `benchmarks.pairs` measured, as a table."""

from typing import Any

from benchmarks.rendering import SCORE_HEADINGS, Grid, describe_machine, format_markdown, score_cells

# Published test sets by the folders in which their pairs lie; any other folder appears under its own name.
NAMES = {
    "rain_rain100l": "Rain100L, sample (rain)",
    "lowlight_lol15": "LOL (low light)",
    "haze_sots25": "SOTS indoor, sample (haze)",
    "blur_gopro6": "GoPro, sample (blur)",
    "blur_reds30": "REDS at 320 x 180, sample (blur)",
}


def pairs_grid(results: dict[str, Any]) -> Grid:
    """Bring the means of `benchmarks.pairs` into rows, a test set each.

    Args:
        results: what it wrote.
    """
    names = (NAMES.get(one["folder"], one["folder"]) for one in results["sets"])
    rows = ([name, str(one["pictures"]), *score_cells(one)] for name, one in zip(names, results["sets"], strict=True))
    return [["test set", "pairs", *SCORE_HEADINGS], *rows]


def render_pairs(results: dict[str, Any]) -> str:
    """Render how much a model restores of published test sets.

    Args:
        results: what `benchmarks.pairs` wrote.

    Returns:
        A Markdown table, and the conditions of the measurement.
    """
    model = results["model"]
    return (
        f"{format_markdown(pairs_grid(results))}\n\n"
        f"`{model['name']}` ({model['dtype']}), whole pictures; scores on RGB, 8 bit.\n"
        f"Measured {results['date'][:10]} on {describe_machine(results['machine'])}."
    )
