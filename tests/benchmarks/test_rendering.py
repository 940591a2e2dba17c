"""What the tables of results share."""

import pytest

from benchmarks.rendering import describe_machine, format_columns, format_markdown
from tests.benchmarks.rows import MACHINE


def test_text_columns_end_at_one_place():
    lines = format_columns([["name", "n"], ["a", "1.25"], ["longer", "-10.5"]]).splitlines()
    assert lines == ["name        n", "a        1.25", "longer  -10.5"]


def test_markdown_aligns_numbers_to_the_right():
    assert format_markdown([["name", "n"], ["a", "1"]]) == "| name | n |\n|---|---:|\n| a | 1 |"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"device": "cuda"}, "cuda, host Model X, 2 cores, 2 threads, torch 2.15.0"),
        ({"processes": 4, "threads": 1}, "Model X, 2 cores, 4 processes of 1 thread, torch 2.15.0"),
    ],
)
def test_machine_is_described_in_one_line(changes, text):
    assert describe_machine(MACHINE | changes) == text
