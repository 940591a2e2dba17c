"""What `benchmarks.doors` found, as a table."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown


def doors_grid(results: dict[str, Any]) -> Grid:
    """Bring what came out of the doors into rows, a picture each.

    Args:
        results: what `benchmarks.doors` wrote.
    """
    grid = [["in", "out", "keeps", "command, pipeline, service", "processor"]]
    for record in results["records"]:
        doors = "the same" if record["same"] else "NOT the same"
        if "refused" in record:
            grid.append([record["name"], "refused", "", doors, "refused" if record["same"] else str(record["values"])])
        else:
            kept = ", ".join(record["restored"]["metadata"])
            grid.append([record["name"], _summarize(record["restored"]), kept, doors, _say_values(record)])
    return grid


def _summarize(file: dict[str, Any]) -> str:
    width, height = file["size"]
    frames = f", {file['frames']} frames" if file["frames"] > 1 else ""
    turned = "" if file["upright"] else ", not upright"
    return f"{file['format']}, {file['mode']}, {file['bits']} bits, {width} x {height}{frames}{turned}"


def _say_values(record: dict[str, Any]) -> str:
    if isinstance(record["values"], str):
        return "refused"
    height, width = record["values"]
    return f"{width} x {height}"


def render_doors(results: dict[str, Any]) -> str:
    """Render what comes out of odd pictures, and whether all doors agree.

    Args:
        results: what `benchmarks.doors` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    records = results["records"]
    refused = sum("refused" in record for record in records)
    return (
        f"{format_markdown(doors_grid(results))}\n\n"
        f"{len(records) - refused} files that are restored, with `{results['model']}` in float32, and {refused} that "
        "are refused: damaged, of a kind that is\nnot read, or no picture. *The same*: byte by byte, or refused by "
        "all."
    )
