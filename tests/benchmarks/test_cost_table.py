"""The table of `benchmarks.cost`, read back by its columns."""

from benchmarks.cost_table import compare_with_paper, render_cost
from tests.benchmarks.rows import markdown_rows


def test_deviation_is_relative_to_the_paper():
    assert compare_with_paper(31.727e6, 31.43e6, 1e6, 3) == ["31.727", "31.43", "+0.94%"]
    assert compare_with_paper(99.0, 100.0, 1, 1) == ["99.0", "100", "-1.00%"]


def test_what_the_paper_does_not_give_is_a_dash():
    assert compare_with_paper(5e6, None, 1e6, 1) == ["5.0", "-", "-"]


def test_cost_table_has_a_row_for_each_model_and_says_the_size():
    one = {"name": "base", "parameters": 2_000_000, "macs": 3e9, "scan_flops": 1e9, "paper": {"flops": 5e9}}
    text = render_cost({"height": 128, "width": 64, "models": [one, one | {"name": "tiny"}]})
    rows = markdown_rows(text)
    assert rows[2] == ["base", "2.000", "-", "-", "3.00", "1.00", "4.00", "5", "-20.00%"]
    assert [row[0] for row in rows[2:]] == ["base", "tiny"]
    assert "128 x 64 pixels" in text
