"""What `benchmarks.description` found, as a table."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown


def description_grid(results: dict[str, Any]) -> Grid:
    """Bring the scores of `benchmarks.description` into rows, a kind each, then their mean.

    Args:
        results: what it wrote.
    """
    grid = [["degradation", "named correctly", "rank correlation of severity"]]
    for kind, accuracy in results["accuracy"].items():
        grid.append([kind.replace("_", " "), f"{accuracy:.3f}", f"{results['spearman'][kind]:.3f}"])
    return grid


def render_description(results: dict[str, Any]) -> str:
    """Render how well a model names the degradation of a picture.

    Args:
        results: what `benchmarks.description` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    return (
        f"{format_markdown(description_grid(results))}\n\n"
        f"`{results['model']['name']}` on {results['pictures']} clean pictures of `{results['clean']}`, each "
        f"degraded in each way, seed {results['seed']}."
    )
