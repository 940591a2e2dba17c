"""What was tried to break it: `python -m benchmarks.reliability`. Runs `tests/reliability`, and counts.

Hostile pictures and models at every door, kills and full disks under every command, connections, and numbers. It takes
hours; `--kills` says how often each command is killed. Mounting file systems of a few kilobytes, for full disks and
read-only places, needs the rights to; without them these tests are skipped, and missing in the table.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.files import RESULTS, write_text
from benchmarks.reliability_table import render_reliability
from dpmambair.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/reliability"
# What pytest says at its end of those that were no records of their own.
ENDS = re.compile(r"(\d+) (passed|failed|error|skipped)")


def run_tests(kills: int, chosen: list[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Run the tests.

    Args:
        kills: how often each command is killed.
        chosen: what else pytest is given, to run a part.

    Returns:
        What they tried, by kind and door; and how many tests passed, failed and were skipped.
    """
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record.jsonl")
        given = os.environ | {"RELIABILITY_RECORD": str(record), "RELIABILITY_KILLS": str(kills)}
        command = [sys.executable, "-m", "pytest", "-q", TESTS, *chosen]
        with subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, text=True) as process:
            lines = []
            for line in process.stdout or ():
                typer.echo(line, nl=False)
                lines.append(line)
        counts = {word: int(number) for number, word in ENDS.findall(lines[-1] if lines else "")}
        told = record.read_text(encoding="utf-8").splitlines() if record.is_file() else []
    return [json.loads(line) for line in told], counts


def join_records(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep of each kind and door the largest run: the fast tests try a sample of what the slow ones try."""
    joined: dict[tuple[str, str], dict[str, Any]] = {}
    for each in records:
        key = each["kind"], each["door"]
        if key not in joined or each["tried"] > joined[key]["tried"]:
            joined[key] = each
    return list(joined.values())


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often each command is killed.")] = 50,
    output: Annotated[Path, typer.Option(help="Results file.")] = RESULTS / "reliability.json",
    only: Annotated[str | None, typer.Option(metavar="EXPRESSION", help="Tests to run, as pytest's -k.")] = None,
) -> None:
    """Try to break everything, and write what was tried and what failed."""
    records, counts = run_tests(kills, ["-k", only] if only else [])
    if not records:
        typer.echo("error: no test left a record; see above", err=True)
        raise typer.Exit(1)
    results = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine("cpu"),
        "tests": counts,
        "records": join_records(records),
    }
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(render_reliability(results))


if __name__ == "__main__":
    typer.run(main)
