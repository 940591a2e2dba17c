"""What `benchmarks.bulk` measured, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown


def bulk_grid(results: dict[str, Any]) -> Grid:
    """Bring the ways of `benchmarks.bulk` into rows.

    Args:
        results: what it wrote.
    """
    loop, number = results["records"][0]["seconds"], results["pictures"]
    rows = [["way", "processes x threads", "seconds", "pictures a second", "against the loop", "hours for a million"]]
    for one in results["records"]:
        # Without the start, which a million pictures have once.
        each = (one["seconds"] - one["start"]) / (number - 1)
        cells = [one["way"], f"{one['processes']} x {one['threads']}", f"{one['seconds']:.1f}"]
        rows.append(
            [*cells, f"{number / one['seconds']:.1f}", f"{loop / one['seconds']:.2f}", f"{each * 1e6 / 3600:.1f}"]
        )
    return rows


def render_bulk(results: dict[str, Any]) -> str:
    """Render how fast many small pictures are restored, and whether kills and shards change anything.

    Args:
        results: what `benchmarks.bulk` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    first, second = results["killed"]["kills"]
    same = "the same files, byte for byte" if results["killed"]["is_equal"] else "**other files**"
    side, number = results["side"], results["pictures"]
    return (
        f"{format_markdown(bulk_grid(results))}\n\n"
        f"`{results['model']}`, float32, {number} pictures of {side} x {side} pixels, PNG to PNG, from the imports to "
        "the last file; hours for a million\nwithout the start. "
        f"Killed when {first} and {second} pictures were there, and begun again, the command wrote "
        f"{same};\nthe pictures of several processes, with other threads, differ by {results['levels']} of 255 levels "
        "or less.\n"
        f"Measured on {describe_machine(results['machine'])}."
    )
