"""The table of what was tried, from records that are made up."""

import json

from benchmarks import reliability
from benchmarks.reliability import join_records, main
from benchmarks.reliability_table import reliability_grid, render_reliability

SAMPLE = {"kind": "hostile pictures", "door": "reader", "tried": 40, "failed": 0, "is_ours": True}
WHOLE = {**SAMPLE, "tried": 2400}
PEER = {**WHOLE, "door": "torchvision", "failed": 7, "is_ours": False}
KILLS = {"kind": "kill -9", "door": "training", "tried": 50, "failed": 0, "is_ours": True}


def test_the_largest_run_of_each_door_counts():
    assert join_records([SAMPLE, WHOLE, SAMPLE, KILLS]) == [WHOLE, KILLS]


def test_command_writes_what_the_tests_recorded_and_shows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reliability, "run_tests", lambda *_: ([PEER, SAMPLE, WHOLE, KILLS], {"passed": 9}))
    main(kills=50, output=tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    heading, ours, peer, kills = reliability_grid(results)
    assert heading == ["what was tried", "at", "how many", "failed"]
    assert ours == ["hostile pictures", "reader", "2,400", "0"]
    assert peer == ["hostile pictures", "*torchvision*", "2,400", "7"]
    assert kills == ["kill -9", "training", "50", "0"]
    text = render_reliability(results)
    assert "All tests of the folder: 9 passed. Other libraries, in italics" in text
    assert text in capsys.readouterr().out


def test_tests_are_run_with_the_number_of_kills_and_leave_their_records(monkeypatch):
    monkeypatch.setattr(reliability, "TESTS", "tests/benchmarks/test_rendering.py")
    records, counts = reliability.run_tests(3, ["-k", "nothing_of_this_name"])
    assert records == []
    assert counts == {}
