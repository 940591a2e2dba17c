"""What was tried to break it: `python -m benchmarks.reliability`. Runs `tests/reliability`, and counts.

Hostile pictures and models at every door, kills and full disks under every command, connections, and numbers. It takes
the better part of an hour of a core; `--kills` says how often commands are killed. Interrupted, the same command goes
on after the last test that had ended; `--only` tries a part, a door or a kind, for the whole to go on from. When the
code has changed, all begins anew. Mounting file systems of a few kilobytes, for full disks and read-only places, needs
the rights to; without them these tests are skipped, and missing in the table.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.files import RESULTS, write_text
from benchmarks.reliability_table import render_reliability
from dpmambair.files import hash_files
from dpmambair.machine import describe_machine, read_commit

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/reliability"
# So many are killed: training, evaluation, bulk restoring, dataset building, export.
COMMANDS = 5
# What the results depend on.
SOURCES = (
    *("modeling_dpmambair", "dpmambair", "dataset_scripts", "restoration_metrics", "evaluation", "training", "demo"),
    "tests/reliability",
)

Line = dict[str, Any]


def begin(journal: Path, kills: int) -> None:
    """Begin a journal of what was tried, unless there is one of the same code.

    Args:
        journal: file, whose first line tells of the run, and each other one of a test that has ended.
        kills: how often commands are killed.
    """
    paths = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    head = {"code": hash_files(sorted([*ROOT.glob("*.py"), *paths])), "kills": kills}
    if not journal.is_file() or json.loads(journal.read_text(encoding="utf-8").partition("\n")[0]) != head:
        write_text(journal, json.dumps(head) + "\n")


def run_tests(journal: Path, kills: int, chosen: Sequence[str]) -> bool:
    """Run the tests that have not passed yet.

    Args:
        journal: takes a line for each test that ends.
        kills: how often commands are killed, one as often as another.
        chosen: what else pytest is given, to run a part.

    Returns:
        Whether there is none left, of that part.
    """
    given = os.environ | {
        "RELIABILITY_RECORD": str(journal.resolve()),
        "RELIABILITY_KILLS": str(-(-kills // COMMANDS)),
    }
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", TESTS, *chosen], cwd=ROOT, env=given)
    return done.returncode in (0, 5)  # 5: all that was chosen had ended before


def read_tests(journal: Path) -> list[Line]:
    """Return what a journal tells of each test: the last that came of it, and how often it had been tried."""
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()[1:]]
    tries = Counter(line["test"] for line in lines)
    last = {line["test"]: line for line in lines}
    return [line | {"tries": tries[name]} for name, line in last.items()]


def join_records(tests: Sequence[Line]) -> list[Line]:
    """Add up what all tests tried of each kind at each door."""
    joined: dict[tuple[str, str, bool], Line] = {}
    for each in (record for test in tests for record in test["records"]):
        key = each["kind"], each["door"], each["is_ours"]
        before = joined.get(key, {"tried": 0, "failed": 0})
        joined[key] = each | {name: before[name] + each[name] for name in ("tried", "failed")}
    return list(joined.values())


def summarize(tests: Sequence[Line]) -> Line:
    """Return the results file's content."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": read_commit(),
        "machine": describe_machine("cpu"),
        "tests": dict(Counter(test["outcome"] for test in tests)),
        "repeated": sum(test["tries"] > 1 for test in tests),
        "records": join_records(tests),
    }


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often commands are killed, together.")] = 50,
    output: Annotated[Path, typer.Option(help="Results file.")] = RESULTS / "reliability.json",
    only: Annotated[str | None, typer.Option(metavar="EXPRESSION", help="Tests to run, as pytest's -k.")] = None,
) -> None:
    """Try to break everything, and write what was tried and what failed.

    Exit status 1: a test failed, or all were interrupted; the same command goes on.
    """
    journal = output.with_suffix(".partial.jsonl")
    begin(journal, kills)
    if not run_tests(journal, kills, ["-k", only] if only else []):
        typer.echo(f"stopped: see above; what has passed is kept in {journal}; give the same command again", err=True)
        raise typer.Exit(1)
    results = summarize(read_tests(journal))
    if not only:
        write_text(output, json.dumps(results, indent=2) + "\n")
        journal.unlink()
    typer.echo(render_reliability(results))


if __name__ == "__main__":
    typer.run(main)
