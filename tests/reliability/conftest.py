"""What was tried and what failed, kept for `python -m benchmarks.reliability`, which can be interrupted."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Where it goes, one JSON object for each test that has ended; and how often each command is killed at random.
RECORD, KILLS = "RELIABILITY_RECORD", "RELIABILITY_KILLS"
# Of the test that runs.
NOTES: list[dict[str, object]] = []
OUTCOMES: list[str] = []


@pytest.fixture(scope="session")
def record() -> Callable[..., None]:
    """Note what was tried of a kind at a door, and which of it failed; then fail if any did."""

    def note(kind: str, door: str, tried: int, failed: list[str], *, is_ours: bool = True) -> None:
        NOTES.append({"kind": kind, "door": door, "tried": tried, "failed": len(failed), "is_ours": is_ours})
        assert not is_ours or failed == [], f"{len(failed)} of {tried} failed at {door}: {failed[:10]}"

    return note


@pytest.fixture
def kills() -> int:
    """How often a command is killed."""
    return int(os.environ.get(KILLS, "2"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down what a test tried, once it has ended."""
    OUTCOMES.append(report.outcome)
    if report.when != "teardown":
        return
    outcome = next((each for each in ("failed", "skipped") if each in OUTCOMES), "passed")
    if path := os.environ.get(RECORD):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": report.nodeid, "outcome": outcome, "records": NOTES}) + "\n")
    NOTES.clear()
    OUTCOMES.clear()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what did not fail in a run before."""
    path = Path(os.environ.get(RECORD, os.devnull))
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines() if path.is_file() else ())
    outcomes = {line["test"]: line["outcome"] for line in lines if "test" in line}
    done = [item for item in items if outcomes.get(item.nodeid, "failed") != "failed"]
    config.hook.pytest_deselected(items=done)
    items[:] = [item for item in items if item not in done]
