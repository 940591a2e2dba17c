"""What `benchmarks.cost` counted, as a table."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown


def compare_with_paper(value: float, paper: float | None, unit: float, digits: int) -> list[str]:
    """Set a count, the paper's count, and how far ours is from it.

    Args:
        value: ours.
        paper: theirs; None where the paper gives none.
        unit: the cells count in multiples of it.
        digits: of our cell, after the point.

    Returns:
        Three cells; the last two are dashes where there is nothing to compare with.
    """
    ours = f"{value / unit:.{digits}f}"
    return [ours, "-", "-"] if paper is None else [ours, f"{paper / unit:g}", f"{value / paper - 1:+.2%}"]


def cost_grid(results: dict[str, Any]) -> Grid:
    """Bring the counts of `benchmarks.cost` into rows, a model each.

    Args:
        results: what it wrote.
    """
    grid = [["model", "params (M)", "paper", "deviation", "MACs (G)", "scan (G)", "total (G)", "paper", "deviation"]]
    for one in results["models"]:
        parameters = compare_with_paper(one["parameters"], one["paper"].get("parameters"), 1e6, 3)
        shares = [f"{one[name] / 1e9:.2f}" for name in ("macs", "scan_flops")]
        total = compare_with_paper(one["macs"] + one["scan_flops"], one["paper"].get("flops"), 1e9, 2)
        grid.append([one["name"], *parameters, *shares, *total])
    return grid


def render_cost(results: dict[str, Any]) -> str:
    """Render what the models cost.

    Args:
        results: what `benchmarks.cost` wrote.

    Returns:
        A Markdown table, and how it was counted.
    """
    return (
        f"{format_markdown(cost_grid(results))}\n\n"
        f"For one picture of {results['height']} x {results['width']} pixels, extractor included. Convolutions, "
        "linear layers and matrix products\ncount one per multiply-accumulate, a scan of L steps, D channels and N "
        "states 9 L D N + L D."
    )
