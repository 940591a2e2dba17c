"""What `benchmarks.kernels` measured, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown


def kernels_grid(results: list[dict[str, Any]]) -> Grid:
    """Bring the times without each kernel, as shares of the time with all of them, into rows.

    Args:
        results: what `benchmarks.kernels` wrote.
    """
    columns = [
        (f"{model}, {kind}, {each['machine']['instructions']}", seconds)
        for each in results
        for model, kinds in each["models"].items()
        for kind, seconds in kinds.items()
    ]
    whole, *ways = columns[0][1]
    rows = [["without", *(name for name, _ in columns)]]
    rows += [[way, *(f"{seconds[way] / seconds[whole] - 1:+.0%}" for _, seconds in columns)] for way in ways]
    return [*rows, ["seconds with all", *(f"{seconds[whole]:.3f}" for _, seconds in columns)]]


def list_ways(measured: dict[str, Any]) -> list[str]:
    """List what was left out when an instruction set was measured: other kernels then do not compare with today's."""
    kinds = next(iter(measured["models"].values()))
    return list(next(iter(kinds.values())))


def render_kernels(results: list[dict[str, Any]]) -> str:
    """Render what each kernel saves: a Markdown table, and its conditions.

    Args:
        results: what `benchmarks.kernels` wrote.
    """
    machines = "; ".join(f"{each['machine']['instructions']}: {describe_machine(each['machine'])}" for each in results)
    return (
        f"{format_markdown(kernels_grid(results))}\n\n"
        "How much longer a restoration or a training step takes with plain torch in a kernel's place; float32, CPU "
        f"time, medians of alternating rounds.\nMeasured on {machines}."
    )
