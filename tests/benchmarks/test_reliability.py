"""The table of what was tried, from a journal that is made up; and what a journal is made of."""

import json
from pathlib import Path

import pytest
import typer

from benchmarks import reliability
from benchmarks.reliability import begin, join_records, main, read_tests, run_tests
from benchmarks.reliability_table import reliability_grid, render_reliability

READER = {"kind": "hostile pictures", "door": "reader", "tried": 2400, "failed": 0, "is_ours": True}
PEER = {**READER, "door": "torchvision", "failed": 7, "is_ours": False}
KILLS = {"kind": "kill -9", "door": "training", "tried": 25, "failed": 0, "is_ours": True}
ENDED = [
    {"test": "a", "outcome": "passed", "records": [PEER, READER, KILLS]},
    {"test": "b", "outcome": "failed", "records": [{**KILLS, "failed": 1}]},
    {"test": "b", "outcome": "passed", "records": [KILLS]},
]
TESTS = """
from pathlib import Path

import pytest

def test_good(record, kills):
    record("tries", "door", kills, [])

def test_flaky(record):
    record("tries", "door", 1, [] if Path("mended").exists() else ["it"])

@pytest.mark.skip
def test_skipped(): ...
"""


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "results.partial.jsonl"
    begin(path, 50)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in ENDED)
    return path


def test_what_a_test_tried_last_counts_and_adds_up(journal):
    tests = read_tests(journal)
    assert [(test["test"], test["outcome"], test["tries"]) for test in tests] == [
        ("a", "passed", 1),
        ("b", "passed", 2),
    ]
    assert join_records(tests) == [PEER, READER, {**KILLS, "tried": 50}]


def test_command_writes_what_the_tests_recorded_and_shows_it(journal, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reliability, "run_tests", lambda *_: True)
    main(kills=50, output=tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    heading, ours, peer, kills = reliability_grid(results)
    assert heading == ["what was tried", "at", "how many", "failed"]
    assert ours == ["hostile pictures", "reader", "2,400", "0"]
    assert peer == ["hostile pictures", "*torchvision*", "2,400", "7"]
    assert kills == ["kill -9", "training", "50", "0"]
    text = render_reliability(results)
    assert "All tests of the folder: 2 passed. Of these 1 passed when they were tried again. Other" in text
    assert text in capsys.readouterr().out
    assert not journal.exists()


def test_doors_at_which_as_much_was_tried_share_a_row():
    records = [KILLS, {**READER, "door": "page"}, PEER, READER, {**READER, "door": "service", "failed": 1}]
    assert reliability_grid({"records": records})[1:] == [
        ["hostile pictures", "page, reader", "2,400 each", "0"],
        ["hostile pictures", "service", "2,400", "1"],
        ["hostile pictures", "*torchvision*", "2,400", "7"],
        ["kill -9", "training", "25", "0"],
    ]


def test_command_that_is_interrupted_or_tries_a_part_keeps_the_journal(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(reliability, "run_tests", lambda *_: False)
    with pytest.raises(typer.Exit):
        main(kills=50, output=tmp_path / "results.json")
    monkeypatch.setattr(reliability, "run_tests", lambda *_: True)
    main(kills=50, output=tmp_path / "results.json", only="reader")
    assert [path.name for path in tmp_path.iterdir()] == [journal.name]
    assert len(read_tests(journal)) == 2


def test_journal_of_other_code_or_another_number_of_kills_begins_anew(journal, monkeypatch):
    begin(journal, 50)
    assert len(read_tests(journal)) == 2
    begin(journal, 49)
    assert read_tests(journal) == []


@pytest.mark.ci
@pytest.mark.slow
def test_tests_that_ended_are_left_out_and_those_that_failed_are_tried_again(tmp_path, monkeypatch):
    (tmp_path / "test_some.py").write_text(TESTS)
    monkeypatch.setattr(reliability, "ROOT", tmp_path)
    monkeypatch.setattr(reliability, "SOURCES", ())
    monkeypatch.setattr(reliability, "TESTS", "test_some.py")
    monkeypatch.setenv("PYTHONPATH", str(Path(reliability.__file__).parents[1]))
    journal = tmp_path / "journal.jsonl"
    begin(journal, 14)
    assert not run_tests(journal, 14, ["-p", "tests.reliability.conftest"])
    (tmp_path / "mended").touch()
    assert run_tests(journal, 14, ["-p", "tests.reliability.conftest"])
    assert run_tests(journal, 14, ["-p", "tests.reliability.conftest"])  # nothing is left
    found = {test["test"].rpartition("::")[2]: (test["outcome"], test["tries"]) for test in read_tests(journal)}
    assert found == {"test_good": ("passed", 1), "test_flaky": ("passed", 2), "test_skipped": ("skipped", 1)}
    assert join_records(read_tests(journal)) == [
        {"kind": "tries", "door": "door", "tried": 4, "failed": 0, "is_ours": True}
    ]
