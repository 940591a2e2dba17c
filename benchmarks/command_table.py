"""What `benchmarks.command` measured, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown


def command_grid(results: dict[str, Any]) -> Grid:
    """Bring the runs of `benchmarks.command` into rows, a picture each.

    Args:
        results: what it wrote.
    """
    rows = [["picture", "megapixels", "seconds", "GiB"]]
    for one in results["records"]:
        megapixels = one["width"] * one["height"] / 1e6
        name = f"{one['width']} x {one['height']}"
        rows.append([name, f"{megapixels:.2f}", f"{one['seconds']:.1f}", f"{one['memory'] / 2**30:.2f}"])
    return rows


def render_command(results: dict[str, Any]) -> str:
    """Render what the command line takes from file to file.

    Args:
        results: what `benchmarks.command` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    return (
        f"{format_markdown(command_grid(results))}\n\n"
        f"`dpmambair-restore` in float32 with `{results['model']}`, a process for each picture: imports, "
        f"weights, decoding, restoring, encoding.\nMedians of {results['repeats']} runs with compiled kernels, "
        f"memory the highest. Measured on {describe_machine(results['machine'])}."
    )
