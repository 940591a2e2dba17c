"""Tables of a run: for reading in Markdown, for papers in LaTeX, beside the figures that others published."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Of each table of the paper its test sets, by the names that `evaluation.pair_sets` gives them, and of each method
# PSNR and SSIM on each of them.
PAPER = Path(__file__).resolve().parents[1] / "configuration" / "paper.json"
# Of test sets, by the same names, small networks made for the degradation: number of parameters, PSNR and SSIM
# (or null) of the `channels` RGB or Y, where that was read, and what its `conditions` have of their own (or null).
SPECIALISTS = PAPER.with_name("specialists.json")
ABSENT = "-"
# Heading and form of each number.
NUMBERS = {
    "psnr": ("PSNR (dB)", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "psnr_y": ("PSNR of Y (dB)", ".2f"),
    "ssim_y": ("SSIM of Y", ".4f"),
    "lpips": ("LPIPS", ".4f"),
}

Grid = list[list[str]]


def label_set(summary: Mapping[str, Any]) -> str:
    """Name a set with its number of pairs, so that a sample is known for one.

    Args:
        summary: what `summarize_set` returned.

    Example:
        >>> label_set({"name": "rain100l", "pairs": 50, "published": 100, "size": [320, 480]})
        'rain100l (50 of 100)'
        >>> label_set({"name": "lol", "pairs": 15, "published": 15, "size": None})
        'lol (15)'
    """
    whole = "" if summary["published"] in (None, summary["pairs"]) else f" of {summary['published']}"
    return f"{summary['name']} ({summary['pairs']}{whole})"


def overview_grid(results: Mapping[str, Any]) -> Grid:
    """Set PSNR and SSIM as the paper's tables do, a row for each method, a column for each set; below stand its own.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    sets = results["sets"]
    methods = list(dict.fromkeys(method for each in sets for method in each["scores"]))
    grid = [["method", *map(label_set, sets), "average"]]
    for method in methods:
        scores = [each["scores"].get(method) for each in sets]
        grid.append([method, *map(_format_scores, scores), _format_scores(results["overall"].get(method))])
    names = [each["name"] for each in sets]
    return grid + paper_rows(names) + specialist_rows(names)


def paper_rows(names: Sequence[str]) -> Grid:
    """Find what the paper publishes for test sets.

    Args:
        names: of the sets, one column each.

    Returns:
        A row for each method of the paper that has a figure for one of them, its average last where all are from one
        table.
    """
    rows = []
    for title, table in json.loads(PAPER.read_text(encoding="utf-8")).items():
        for method, figures in table["rows"].items():
            by_set = dict(zip(table["sets"], figures, strict=True))
            own = [by_set.get(name) for name in names]
            if not any(own):
                continue
            means = [sum(column) / len(own) for column in zip(*own, strict=True)] if all(own) else None
            rows.append([f"{method} (paper, {title})", *map(_format_figures, own), _format_figures(means)])
    return rows


def list_specialists(name: str) -> list[dict[str, Any]]:
    """Return the small networks whose figures are published for a test set, as `SPECIALISTS` describes them.

    Args:
        name: of the set; one that nobody published figures of has none.
    """
    return json.loads(SPECIALISTS.read_text(encoding="utf-8")).get(name, [])


def specialist_rows(names: Sequence[str]) -> Grid:
    """Find what small networks made for the degradation are published to reach on test sets.

    Args:
        names: of the sets, one column each.

    Returns:
        A row for each network, which says so where its figures are of Y; a figure that is not published is left out.
    """
    rows = []
    for column, name in enumerate(names):
        for each in list_specialists(name):
            cells = [ABSENT] * (len(names) + 1)
            cells[column] = "/".join(
                format(each[figure], form) for figure, form in (("psnr", ".2f"), ("ssim", ".3f")) if each[figure]
            )
            rows.append([f"{each['name']} (published{', of Y' if each['channels'] == 'Y' else ''})", *cells])
    return rows


def _format_scores(scores: Mapping[str, Any] | None) -> str:
    return ABSENT if scores is None else _format_figures([scores["psnr"], scores["ssim"]])


def _format_figures(figures: Sequence[float | None] | None) -> str:
    return ABSENT if figures is None else f"{_format(figures[0], '.2f')}/{_format(figures[1], '.3f')}"


def _format(value: float | None, form: str) -> str:
    return "infinite" if value is None else format(value, form)


def detail_grid(results: Mapping[str, Any]) -> Grid:
    """Set every number: a row for each set and method.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    names = [name for name in NUMBERS if name in next(iter(results["sets"][0]["scores"].values()))]
    grid = [["test set", "method", *(NUMBERS[name][0] for name in names), "made worse"]]
    for each in results["sets"]:
        for method, scores in each["scores"].items():
            numbers = [_format(scores[name], NUMBERS[name][1]) for name in names]
            worse = str(scores["psnr_gains"]["worse"]) if "psnr_gains" in scores else ABSENT
            grid.append([label_set(each), method, *numbers, worse])
    return grid


def describe_conditions(results: Mapping[str, Any]) -> str:
    """Say in a paragraph how the numbers came about.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    model, border, lpips = results["model"], results["border"], results["lpips"]
    sentences = [f"`{model['name']}`: {model['parameters'] / 1e6:.2f} M parameters, computed in {model['dtype']}."]
    sentences.append(f"Pictures of 8 bits, {f'{border} pixels of border cut off' if border else 'whole'}.")
    if any(each["published"] not in (None, each["pairs"]) for each in results["sets"]):
        sentences.append("*n of N*: a sample of n of the N pairs that are published; others' figures are of all.")
    if sizes := [f"{each['name']} {each['size'][1]} x {each['size'][0]}" for each in results["sets"] if each["size"]]:
        sentences.append(f"Pixels: {', '.join(sizes)}.")
    if lpips:
        sentences.append(f"LPIPS on {lpips['network']}.")
    sentences += [f"{name}: {settings}." for name, settings in results["methods"].items()]
    return " ".join(sentences)


def to_markdown(results: Mapping[str, Any]) -> str:
    """Write both tables and their conditions in Markdown.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    tables = [format_markdown(grid(results)) for grid in (overview_grid, detail_grid)]
    return "\n\n".join([f"PSNR (dB) / SSIM, {results['date']}", *tables, describe_conditions(results)]) + "\n"


def format_markdown(grid: Grid) -> str:
    """Write a grid, its headings first, in Markdown.

    Args:
        grid: rows of as many cells.
    """
    headings, *rows = (f"| {' | '.join(row)} |" for row in grid)
    return "\n".join([headings, f"|---{'|---:' * (len(grid[0]) - 1)}|", *rows])


def to_latex(results: Mapping[str, Any]) -> str:
    """Write the overview as a LaTeX table, for the package booktabs.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    headings, *rows = ([_escape(cell) for cell in row] for row in overview_grid(results))
    lines = [
        f"% {describe_conditions(results)}",
        rf"\begin{{tabular}}{{l{'c' * (len(headings) - 1)}}}",
        r"\toprule",
        f"{' & '.join(headings)} \\\\",
        r"\midrule",
        *(f"{' & '.join(row)} \\\\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    # The only characters of LaTeX's that names of sets and methods may hold; a backslash would escape the others.
    special = {character: f"\\{character}" for character in "&%$#_{}"}
    return text.translate(
        str.maketrans(special | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"})
    )
