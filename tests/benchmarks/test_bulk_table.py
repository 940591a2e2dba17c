"""The table of `benchmarks.bulk`, read back by its columns."""

from benchmarks.bulk_table import render_bulk
from tests.benchmarks.rows import MACHINE, markdown_rows

RESULTS = {
    "model": "small-one",
    "machine": MACHINE,
    "pictures": 101,
    "side": 64,
    "records": [
        {"way": "loop", "processes": 1, "threads": 2, "start": 4.0, "seconds": 40.0},
        {"way": "command", "processes": 2, "threads": 1, "start": 2.0, "seconds": 20.0},
    ],
    "levels": 1,
    "killed": {"kills": [7, 60], "is_equal": True},
}


def test_every_way_is_set_beside_the_loop():
    rows = markdown_rows(render_bulk(RESULTS))
    assert rows[2] == ["loop", "1 x 2", "40.0", "2.5", "1.00", "100.0"]
    assert rows[3] == ["command", "2 x 1", "20.0", "5.0", "2.00", "50.0"]


def test_what_kills_and_processes_changed_is_told():
    text = " ".join(render_bulk(RESULTS).split())
    assert "Killed when 7 and 60 pictures were there" in text
    assert "the same files, byte for byte" in text
    assert "differ by 1 of 255 levels or less" in text
    changed = {**RESULTS, "killed": {"kills": [7, 60], "is_equal": False}}
    assert "wrote **other files**" in render_bulk(changed)
