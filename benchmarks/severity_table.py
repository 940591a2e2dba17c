"""What `benchmarks.severity` measured, as a table."""

from statistics import fmean
from typing import Any

from benchmarks.rendering import Grid, format_markdown, format_mean


def severity_grid(results: dict[str, Any]) -> Grid:
    """Bring the gains into rows, a kind each, then their mean; severities in columns, without that of clean pictures.

    Args:
        results: what `benchmarks.severity` wrote.
    """
    severities = [one["severity"] for one in next(iter(results["kinds"].values())) if one["severity"] > 0]
    gains = {kind: [_gain(one) for one in points if one["severity"] > 0] for kind, points in results["kinds"].items()}
    means = [None if None in column else fmean(column) for column in zip(*gains.values(), strict=True)]
    rows = [[kind.replace("_", " "), *(format_mean(gain, "+.2f") for gain in row)] for kind, row in gains.items()]
    heads = [f"gain at {severity:g} (dB)" for severity in severities]
    return [["degradation", *heads], *rows, ["mean", *(format_mean(gain, "+.2f") for gain in means)]]


def _gain(point: dict[str, Any]) -> float | None:
    before, after = point["psnr_degraded"], point["psnr_restored"]
    return None if before is None or after is None else after - before


def render_severity(results: dict[str, Any]) -> str:
    """Render what a model gains at each severity.

    Args:
        results: what `benchmarks.severity` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    untouched = next(iter(results["kinds"].values()))[0]["psnr_restored"]
    kept = "some of them unchanged" if untouched is None else f"at {untouched:.2f} dB"
    return (
        f"{format_markdown(severity_grid(results))}\n\n"
        f"`{results['model']['name']}` (float32) on {results['pictures']} clean pictures of `{results['clean']}`, "
        f"the same draws at every severity,\nseed {results['seed']}. Clean pictures come back {kept}."
    )
