"""What `benchmarks.forward` measured, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown

# The network beside whose time and memory those of all others are set.
RIVAL = "Restormer"


def forward_grid(results: dict[str, Any]) -> Grid:
    """Bring the times of `benchmarks.forward` into rows, with each one over Restormer's in float32 at the same size.

    Args:
        results: what it wrote.
    """
    rivals = {one["pixels"]: one for one in results["records"] if (one["model"], one["dtype"]) == (RIVAL, "float32")}
    digits = 2 if results["machine"]["device"] == "cpu" else 4  # a card takes milliseconds
    rows = [["model", "dtype", "pixels", "seconds", f"of {RIVAL}'s", "GiB", f"of {RIVAL}'s", "of ceiling", "s / Mpx"]]
    for one in results["records"]:
        rival = rivals.get(one["pixels"])
        has_memory = one["memory"] is not None
        rows.append(
            [
                one["model"],
                one["dtype"],
                str(one["pixels"]),
                f"{one['seconds']:.{digits}f}",
                f"{one['seconds'] / rival['seconds']:.2f}" if rival else "-",
                f"{one['memory'] / 2**30:.2f}" if has_memory else "-",
                f"{one['memory'] / rival['memory']:.2f}" if rival and has_memory else "-",
                f"{one['flops'] / results['ceiling'][one['dtype']]:.0%}",
                f"{one['seconds'] / one['pixels'] ** 2 * 1e6:.{digits}f}",
            ]
        )
    return rows


def render_forward(results: dict[str, Any]) -> str:
    """Render what restoring one picture takes.

    Args:
        results: what `benchmarks.forward` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    ceilings = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in results["ceiling"].items())
    return (
        f"{format_markdown(forward_grid(results))}\n\n"
        f"One square picture, random weights, medians of {results['repeats']} interleaved runs in one process, the "
        f"same memory settings for all.\nThe ceiling is a matrix product's rate: {ceilings}. "
        f"Measured on {describe_machine(results['machine'])}."
    )
