"""What was tried and what failed, kept for the table of `python -m benchmarks.reliability`."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Where the counts go, one JSON object a line; and how often a command is killed at random.
RECORD, KILLS = "RELIABILITY_RECORD", "RELIABILITY_KILLS"


@pytest.fixture
def record() -> Callable[..., None]:
    """Note what was tried of a kind at a door, and which of it failed; then fail if any did."""

    def note(kind: str, door: str, tried: int, failed: list[str], *, is_ours: bool = True) -> None:
        if path := os.environ.get(RECORD):
            with Path(path).open("a", encoding="utf-8") as file:
                counts = {"kind": kind, "door": door, "tried": tried, "failed": len(failed), "is_ours": is_ours}
                file.write(json.dumps(counts) + "\n")
        assert not is_ours or failed == [], f"{len(failed)} of {tried} failed at {door}: {failed[:10]}"

    return note


@pytest.fixture
def kills() -> int:
    """How often a command is killed."""
    return int(os.environ.get(KILLS, "2"))
