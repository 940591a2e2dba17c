"""What `benchmarks.reliability` tried, as a table."""

from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown


def reliability_grid(results: dict[str, Any]) -> Grid:
    """Bring what was tried into rows: ours by kind, those of other libraries after ours of their kind.

    Args:
        results: what `benchmarks.reliability` wrote.
    """
    kinds = list(dict.fromkeys(each["kind"] for each in results["records"]))
    grid = [["what was tried", "at", "how many", "failed"]]
    for kind in kinds:
        of_kind = [each for each in results["records"] if each["kind"] == kind]
        for each in sorted(of_kind, key=lambda each: not each["is_ours"]):
            door = each["door"] if each["is_ours"] else f"*{each['door']}*"
            grid.append([kind, door, f"{each['tried']:,}", f"{each['failed']:,}"])
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
