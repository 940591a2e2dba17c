"""What `benchmarks.reliability` tried, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown

# As they are told of; tests may run in any order.
KINDS = (
    *("hostile pictures", "special files", "legal names", "weights in other formats", "configurations out of bounds"),
    *("preprocessors that change pictures", "broken files", "weights that are not finite", "kill -9"),
    *("signals to the group", "full disks", "places that cannot be written", "limits of memory", "connections"),
    "numbers",
)


def reliability_grid(results: dict[str, Any]) -> Grid:
    """Bring what was tried into rows: ours by kind, those of other libraries after ours of their kind.

    Doors of one kind at which as much was tried, and failed, share a row.

    Args:
        results: what `benchmarks.reliability` wrote.
    """
    doors: dict[tuple[int, str, bool, int, int], list[str]] = {}
    for each in results["records"]:
        place = KINDS.index(each["kind"])
        key = place, each["kind"], not each["is_ours"], each["tried"], each["failed"]
        doors.setdefault(key, []).append(each["door"] if each["is_ours"] else f"*{each['door']}*")
    grid = [["what was tried", "at", "how many", "failed"]]
    for (_, kind, _, tried, failed), names in sorted(doors.items()):
        count = f"{tried:,} each" if len(names) > 1 else f"{tried:,}"
        grid.append([kind, ", ".join(sorted(names)), count, f"{failed:,}"])
    return grid


def render_reliability(results: dict[str, Any]) -> str:
    """Render what was tried to break it.

    Args:
        results: what `benchmarks.reliability` wrote.

    Returns:
        A Markdown table and its conditions.
    """
    tests, others = results["tests"], any(not each["is_ours"] for each in results["records"])
    counts = ", ".join(f"{number:,} {word}" for word, number in tests.items())
    foreign = " Other libraries, in italics, were given the same." if others else ""
    repeated = f" Of these {results['repeated']:,} passed when they were tried again." if results["repeated"] else ""
    return (
        f"{format_markdown(reliability_grid(results))}\n\n"
        f"All tests of the folder: {counts}.{repeated}{foreign} Measured\n{results['date'][:10]} on "
        f"{describe_machine(results['machine'])}."
    )
