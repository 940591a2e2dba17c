"""What `benchmarks.scan` measured, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown


def scan_grid(results: dict[str, Any]) -> Grid:
    """Bring the times of `benchmarks.scan` into rows, with each rival's over ours at the same length.

    Args:
        results: what it wrote.
    """
    records = results["records"]
    ours = {one["L"]: one["forward"] for one in records if one["scan"] == "ours"}
    rows = [["scan", "L", "forward (ms)", "over ours", "G updates/s", "backward / forward", "memory / data"]]
    for one in records:
        rows.append(
            [
                one["scan"],
                str(one["L"]),
                f"{one['forward'] * 1e3:.2f}",
                f"{one['forward'] / ours[one['L']]:.1f}",
                f"{one['updates'] / 1e9:.3f}",
                f"{one['backward'] / one['training_forward']:.2f}" if "backward" in one else "-",
                f"{one['memory']:.2f}" if "memory" in one else "-",
            ]
        )
    return rows


def render_scan(results: dict[str, Any]) -> str:
    """Render what the selective scan takes.

    Args:
        results: what `benchmarks.scan` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    return (
        f"{format_markdown(scan_grid(results))}\n\n"
        f"One picture, L steps of {results['D']} channels with {results['N']} states, float32. The backward is set "
        "beside the forward of the same\ntraining step; memory is the most that both hold, over inputs, output and "
        f"their gradients.\nMeasured on {describe_machine(results['machine'])}, medians."
    )
