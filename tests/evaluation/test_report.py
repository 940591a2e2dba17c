"""Tables of a run: in the paper's layout, with its figures, and safe to paste."""

import json

import numpy as np
import pytest

from evaluation.report import PAPER, format_markdown, overview_grid, paper_rows, to_latex
from evaluation.summary import summarize
from tests.benchmarks.test_pairs_table import results


def test_average_of_the_papers_rows_is_the_one_that_it_prints():
    printed = {"DPMambaIR (paper, Table 1)": "27.69/0.893", "Restormer (paper, Table 1)": "27.16/0.885"}
    sets = json.loads(PAPER.read_text(encoding="utf-8"))["Table 1"]["sets"]
    rows = {row[0]: row for row in paper_rows(sets)}
    assert {name: rows[name][-1] for name in printed} == printed
    assert rows["DPMambaIR (paper, Table 1)"][1:3] == ["20.04/0.680", "32.36/0.949"]


def test_rows_of_a_table_that_lacks_a_set_have_no_average():
    assert paper_rows(["lol", "rain100l"]) == [
        ["DPMambaIR, one model for each (paper, Table 2)", "24.20/0.852", "-", "-"]
    ]
    assert paper_rows(["rain100l"]) == []


def test_every_table_of_the_paper_has_a_figure_for_each_method_and_set():
    for table in json.loads(PAPER.read_text(encoding="utf-8")).values():
        for figures in table["rows"].values():
            values = np.array(figures)
            assert values.shape == (len(table["sets"]), 2)
            assert ((values[:, 0] > 15) & (values[:, 0] < 40) & (values[:, 1] > 0.5) & (values[:, 1] < 1)).all()


def test_latex_escapes_names():
    found = results()
    found["sets"][0]["name"] = "50%_rain & {fog}"
    text = to_latex(found)
    assert r"method & 50\%\_rain \& \{fog\} (50 of 100) & lol (15)" in text
    assert text.count(r"\\") == len(overview_grid(found))
    assert text.startswith("% ")
    assert text.rstrip().endswith(r"\end{tabular}")


def test_markdown_rows_have_as_many_cells():
    lines = format_markdown(overview_grid(results())).splitlines()
    assert len({line.count("|") for line in lines}) == 1


def test_summary_leaves_out_what_was_not_measured():
    assert summarize([], {}) == {"sets": [], "overall": {}}


@pytest.mark.parametrize("border", [0, 4])
def test_conditions_tell_of_the_border(border):
    text = to_latex(results() | {"border": border})
    assert ("4 pixels of border cut off" in text) == bool(border)
