"""The tables of published test sets, read back by their columns."""

from benchmarks.pairs_table import render_methods, render_pairs, render_rivals
from tests.benchmarks.rows import MACHINE, markdown_rows


def results():
    """What the evaluation writes of two samples, one of them degraded here."""

    def scores(*gains):
        names = ("degraded", "small-one", "median")
        found = {
            name: dict.fromkeys(("psnr", "ssim", "psnr_y", "ssim_y"), 20.0 + gain)
            for name, gain in zip(names, (0, *gains), strict=False)
        }
        for name in [*found][1:]:
            found[name]["psnr_gains"] = {"lowest": -1.0, "median": 0.0, "highest": 1.0, "worse": 2}
        return found

    common = {"folder": "somewhere", "size": None}
    rain = {"name": "rain100l", "task": "rain", "pairs": 50, "published": 100, "scores": scores(1, 2), **common}
    dark = {"name": "lol", "task": "low_light", "pairs": 15, "published": 15, "scores": scores(3), **common}
    noise = {"name": "cbsd68/noise_mid", "task": "noise", "pairs": 3, "published": 68, "scores": scores(5), **common}
    return {
        "benchmark": None,
        "model": {"name": "small-one", "parameters": 810_976, "dtype": "float32"},
        "methods": {"median": "5 x 5 pixels"},
        "border": 0,
        "lpips": None,
        "machine": MACHINE,
        "date": "2026-01-02",
        "sets": [rain, dark, noise],
        "overall": scores(3),
    }


def test_sets_that_others_degraded_are_named_with_their_task_and_as_samples():
    text = render_pairs(results())
    assert [row[0] for row in markdown_rows(text)[2:]] == ["Rain100L, sample (rain)", "LOL (low light)"]
    assert markdown_rows(text)[2][1:5] == ["50", "20.00", "21.00", "+1.00"]
    assert "Measured 2026-01-02 on Model X" in text


def test_every_method_stands_beside_the_paper_and_samples_are_explained():
    text = render_methods(results())
    rows = {row[0]: row[1:] for row in markdown_rows(text)}
    assert rows["method"] == ["rain100l (50 of 100)", "lol (15)", "cbsd68/noise_mid (3 of 68)", "average"]
    assert rows["small-one"] == ["21.00/21.000", "23.00/23.000", "25.00/25.000", "23.00/23.000"]
    assert rows["median"] == ["22.00/22.000", "-", "-", "-"]
    assert rows["PReNet (published, of Y)"] == ["37.48/0.979", "-", "-", "-"]
    assert rows["IAT (published)"] == ["-", "23.38/0.809", "-", "-"]
    assert rows["DPMambaIR, one model for each (paper, Table 2)"] == ["-", "24.20/0.852", "-", "-"]
    assert ["rain100l (50 of 100)", "median", "22.00", "22.0000", "22.00", "22.0000", "2"] in markdown_rows(text)
    assert "*n of N*: a sample of n of the N pairs" in text
    assert "median: 5 x 5 pixels." in text


def test_rivals_stand_beside_the_model_in_the_channels_of_the_published_figure():
    found = results()
    for scores in found["sets"][0]["scores"].values():
        scores["psnr_y"] += 0.5
    text = render_rivals(found)
    assert markdown_rows(text)[0][4] == "small-one"
    assert markdown_rows(text)[2:] == [
        ["Rain100L (rain)", "50 of 100", "Y", "20.50", "21.50", "22.50 (median)", "37.48 (PReNet, 0.17 M)"],
        ["LOL (low light)", "15", "RGB", "20.00", "23.00", "-", "14.86 (Zero-DCE, 0.079 M), 23.38 (IAT, 0.09 M)"],
    ]
    assert "`small-one` has 0.81 M parameters" in text
    assert "- PReNet: README of https://github.com/csdwren/PReNet (arXiv:1901.09221)\n" in text
    assert "- Zero-DCE: arXiv:2410.21535, Table 2; trained without pairs\n" in text
    assert "FFDNet" not in text


def test_rivals_leave_out_networks_that_were_measured_here():
    found = results()
    found["methods"]["median"] = "weights 0123"
    assert markdown_rows(render_rivals(found))[2][5] == "-"
