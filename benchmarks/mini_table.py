"""What the mini study of `reproduce.py --scale mini` found, beside the paper's rows."""

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.learning_table import name_budget, state_mean
from benchmarks.rendering import Grid, describe_machine, format_markdown

# The rows of the paper's tables, and the candidates that stand for them.
ROWS = Path(__file__).resolve().parents[1] / "configuration" / "reproduce.json"
ABSENT = "-"

Runs = dict[int, dict[str, Any]]


def mini_grid(table: str, results: dict[str, Any]) -> Grid:
    """Bring the runs into the rows of the paper's table; differences are to the first row, seed by seed.

    Args:
        table: key in configuration/reproduce.json.
        results: what `benchmarks.learning` wrote.

    Raises:
        ValueError: a candidate stands in no row, or runs had different budgets.
    """
    rows = [row for row in json.loads(ROWS.read_text(encoding="utf-8"))[table]["rows"] if "candidate" in row]
    runs: dict[str, Runs] = {row["candidate"]: {} for row in rows}
    for record in results["records"]:
        if record["candidate"] not in runs:
            raise ValueError(f"candidates must be rows of {table}, got {record['candidate']!r}; add it to {ROWS.name}")
        runs[record["candidate"]][record["seed"]] = record
    if len({json.dumps(record["budget"]) for record in results["records"]}) > 1:
        raise ValueError("runs must have one budget, got several; remove those of the other")
    first, kinds = rows[0], list(results["records"][0]["gain"])
    costs = ["trained (M)", "kMAC / px", "s / step", "seeds"]
    over = f"over {first['name']}"
    headings = ["row", *costs, "gain (dB)", over, "paper's PSNR", over, *(kind.replace("_", " ") for kind in kinds)]
    return [headings, *(_fill_row(row, runs, first, kinds) for row in rows)]


def _fill_row(row: dict[str, Any], runs: dict[str, Runs], first: dict[str, Any], kinds: list[str]) -> list[str]:
    own, reference = runs[row["candidate"]], runs[first["candidate"]]
    psnr = [f"{row['psnr']:.2f}", f"{row['psnr'] - first['psnr']:+.2f}"] if "psnr" in row else [ABSENT] * 2
    if not own:
        return [row["name"], *[ABSENT] * 6, *psnr, *[ABSENT] * len(kinds)]
    one = next(iter(own.values()))
    differences = [own[seed]["mean"] - reference[seed]["mean"] for seed in own.keys() & reference.keys()]
    return [
        row["name"],
        f"{one['trained'] / 1e6:.3f}",
        f"{one['macs'] / 1e3:.1f}",
        f"{statistics.fmean(each['step_seconds'] for each in own.values()):.3f}",
        str(len(own)),
        state_mean([each["mean"] for each in own.values()]),
        state_mean(differences) if differences and row is not first else ABSENT,
        *psnr,
        *(f"{statistics.fmean(each['gain'][kind] for each in own.values()):+.2f}" for kind in kinds),
    ]


def render_mini(table: str, results: dict[str, Any]) -> str:
    """Render a table of the mini study: a Markdown table, and its conditions.

    Args:
        table: key in configuration/reproduce.json.
        results: what `benchmarks.learning` wrote.
    """
    records = results["records"]
    training, budget = records[0]["definition"]["training"], name_budget(records[0]["budget"])
    side = training["patch_schedule"][0][1]
    commits = ", ".join(sorted({(record["commit"] or "unknown")[:10] for record in records}))
    machines = "; ".join(sorted({describe_machine(record["machine"]) for record in records}))
    return (
        f"{format_markdown(mini_grid(table, results))}\n\n"
        f"Small networks, all trained alike: {budget} of {training['batch_size']} patches of {side} x {side} pixels, "
        "the same in the same order.\nGain: PSNR after minus before on held-out photographs under each kind at "
        "severity 0.5, ± half the range of the\nseeds; differences are taken seed by seed. The paper's PSNR is that "
        "of large networks on its test sets: compare the\norder of the differences, not their size.\n"
        f"By `python reproduce.py {table} --scale mini`, commit {commits}, on {machines}."
    )
