"""Tables of a run: in the paper's layout, with its figures, and safe to paste."""

import json

import numpy as np
import pytest

from dataset_scripts import CORPORA
from evaluation.report import (
    PAPER,
    SPECIALISTS,
    format_markdown,
    list_specialists,
    overview_grid,
    paper_rows,
    specialist_rows,
    to_latex,
)
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


def test_specialists_have_plausible_figures_their_sources_and_one_kind_of_channels():
    for name, specialists in json.loads(SPECIALISTS.read_text(encoding="utf-8")).items():
        assert name.partition("/")[0] in CORPORA
        assert len({each["channels"] for each in specialists}) == 1
        assert specialists[0]["channels"] in ("RGB", "Y")
        for each in specialists:
            assert 10 < each["psnr"] < 40
            assert each["ssim"] is None or 0.5 < each["ssim"] < 1
            assert 1_000 < each["parameters"] < 5_000_000
            assert "arXiv:" in each["source"]


def test_parameters_of_specialists_are_those_of_their_layers():
    def conv(inputs, outputs, size=3):
        return inputs * outputs * size**2 + outputs

    prenet = conv(6, 32) + 10 * conv(32, 32) + 4 * conv(64, 32) + conv(32, 3)
    zero_dce = conv(3, 32) + 3 * conv(32, 32) + 2 * conv(64, 32) + conv(64, 24)
    aod_net = conv(3, 3, 1) + conv(3, 3) + conv(6, 3, 5) + conv(6, 3, 7) + conv(12, 3)
    dncnn = conv(3, 64) + 18 * conv(64, 64) + conv(64, 3)
    ffdnet = conv(13, 96) + 10 * conv(96, 96) + conv(96, 12)
    counted = {"PReNet": prenet, "Zero-DCE": zero_dce, "AOD-Net": aod_net, "DnCNN": dncnn, "FFDNet": ffdnet}
    names = json.loads(SPECIALISTS.read_text(encoding="utf-8"))
    stated = {each["name"]: each["parameters"] for name in names for each in list_specialists(name)}
    assert {name: stated[name] for name in counted} == counted


def test_figure_that_is_not_published_is_left_out():
    assert specialist_rows(["snow100k", "cbsd68/noise_sigma25"]) == [
        ["DnCNN (published)", "-", "31.24", "-"],
        ["FFDNet (published)", "-", "31.21", "-"],
    ]


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
