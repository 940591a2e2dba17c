"""What `benchmarks.steering` found, as tables."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown


def steering_grid(results: dict[str, Any]) -> Grid:
    """Bring what keeping a kind does into rows, a model and a kept kind each.

    Args:
        results: what `benchmarks.steering` wrote.
    """
    seen = ("restored", "with `--keep`")
    heads = [f"{kind} damage removed, {how}" for kind in ("kept kind's", "other's") for how in seen]
    grid = [["model", "kept kind", *heads, *(f"PSNR (dB), {how}" for how in ("degraded", *seen))]]
    for model in results["models"]:
        for kind, row in model["keep"].items():
            shares = [row[name] for name in ("lost_whole", "lost_kept", "repaired_whole", "repaired_kept")]
            scores = [row[f"psnr_{name}"] for name in ("degraded", "whole", "kept")]
            cells = [*(f"{each:.0%}" for each in shares), *(f"{each:.2f}" for each in scores)]
            grid.append([model["model"]["name"], kind.replace("_", " "), *cells])
    return grid


def ensemble_grid(results: dict[str, Any]) -> Grid:
    """Bring what the self-ensemble gains into rows, a model each.

    Args:
        results: what `benchmarks.steering` wrote.
    """
    grid = [["model", "PSNR (dB), degraded", "restored", "self-ensemble"]]
    for model in results["models"]:
        scores = [model["ensemble"][name] for name in ("degraded", "restored", "ensemble")]
        grid.append([model["model"]["name"], *(f"{each:.2f}" for each in scores)])
    return grid


def render_steering(results: dict[str, Any]) -> str:
    """Render what `--keep` and `--self-ensemble` do.

    Args:
        results: what `benchmarks.steering` wrote.

    Returns:
        Two Markdown tables, and their conditions.
    """
    conditions = (
        f"{results['pictures']} photographs that training held out, {results['side']} x {results['side']} pixels, "
        f"each degraded by every two kinds at severity {results['severity']}, seed {results['seed']}."
    )
    return "\n\n".join([format_markdown(steering_grid(results)), format_markdown(ensemble_grid(results)), conditions])
