"""The table of `benchmarks.scan`, read back by its columns."""

from benchmarks.scan_table import render_scan
from tests.benchmarks.rows import MACHINE, markdown_rows


def test_rivals_scans_are_set_over_ours_of_the_same_length():
    ours = {"scan": "ours", "L": 64, "forward": 0.002, "updates": 3e9, "training_forward": 0.004, "backward": 0.01}
    rival = {"scan": "loop", "L": 64, "forward": 0.1, "updates": 6e7}
    results = {"D": 96, "N": 16, "machine": MACHINE, "records": [ours | {"memory": 1.25}, rival]}
    rows = markdown_rows(render_scan(results))
    assert rows[2] == ["ours", "64", "2.00", "1.0", "3.000", "2.50", "1.25"]
    assert rows[3] == ["loop", "64", "100.00", "50.0", "0.060", "-", "-"]
