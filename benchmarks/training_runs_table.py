"""What `benchmarks.training_runs` counted, as a table."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown


def training_runs_grid(results: dict[str, Any]) -> Grid:
    """Add up the runs of each stage and device.

    Args:
        results: what `benchmarks.training_runs` wrote.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in results["runs"]:
        groups.setdefault((one["stage"], one["device"]), []).append(one)
    rows = [["stage", "on", "runs", "steps", "patches (M)", "gigapixels", "hours"]]
    for (stage, device), runs in sorted(groups.items()):
        steps, patches, pixels, hours = (
            sum(one[name] for one in runs) for name in ("steps", "patches", "pixels", "hours")
        )
        amounts = [f"{patches / 1e6:.2f}", f"{pixels / 1e9:.2f}", f"{hours:.2f}"]
        rows.append([f"`{stage}`", device, str(len(runs)), f"{steps:,}", *amounts])
    return rows


def render_training_runs(results: dict[str, Any]) -> str:
    """Render what weights learned from.

    Args:
        results: what `benchmarks.training_runs` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    return (
        f"{format_markdown(training_runs_grid(results))}\n\n"
        f"All runs of `{results['model']}`, by their logs and recipes; a patch is one picture of a step. Hours are by "
        "the clock. Where it says\nCPU, one core trained, and in later runs another one drew the patches."
    )
