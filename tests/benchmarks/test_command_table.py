"""The table of `benchmarks.command`, read back by its columns."""

from benchmarks.command_table import render_command
from tests.benchmarks.rows import MACHINE, markdown_rows


def test_command_is_told_by_picture():
    record = {"width": 2000, "height": 1000, "seconds": 3.21, "memory": 3 * 2**29}
    text = render_command({"model": "small-one", "repeats": 3, "machine": MACHINE, "records": [record]})
    assert markdown_rows(text)[2] == ["2000 x 1000", "2.00", "3.2", "1.50"]
    assert "Medians of 3 runs" in text
