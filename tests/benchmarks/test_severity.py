"""Gains by severity: what is measured, drawn and written."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from benchmarks import severity
from benchmarks.severity import SEVERITIES, app, draw, measure
from benchmarks.severity_table import render_severity
from dataset_scripts.degradations import KINDS, apply_degradations, sample_degradation
from tests.benchmarks.rows import markdown_rows

CLEAN = data.astronaut()[:48, :56]


@pytest.fixture
def clean(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.fromarray(CLEAN).save(folder / "a.png")
    Image.fromarray(data.coffee()[:48, :48]).save(folder / "b.png")
    return folder


def turn_grey(picture):
    return Image.new("RGB", picture.size, (128, 128, 128))


def test_pictures_are_degraded_as_by_the_benchmark_at_every_severity(clean):
    found = measure(turn_grey, clean, limit=1)
    assert found["pictures"] == 1
    for number, kind in enumerate(KINDS):
        assert [one["severity"] for one in found["kinds"][kind]] == list(SEVERITIES)
        for one in found["kinds"][kind][1:]:
            drawn = sample_degradation(kind, one["severity"], np.random.default_rng((2504, number, 0)))
            degraded = np.rint(apply_degradations(np.float32(CLEAN) / 255, [drawn]) * 255).astype(np.uint8)
            assert one["psnr_degraded"] == pytest.approx(peak_signal_noise_ratio(CLEAN, degraded))


def test_restored_pictures_are_compared_with_the_clean_ones(clean):
    expected = np.mean(
        [peak_signal_noise_ratio(each, np.full_like(each, 128)) for each in (CLEAN, data.coffee()[:48, :48])]
    )
    for points in measure(turn_grey, clean)["kinds"].values():
        assert [one["psnr_restored"] for one in points] == pytest.approx([expected] * len(SEVERITIES))


def test_every_kind_does_more_damage_at_a_higher_severity(clean):
    for points in measure(lambda picture: picture, clean)["kinds"].values():
        before = [one["psnr_degraded"] for one in points]
        assert before[0] == math.inf
        assert sorted(before, reverse=True) == before
        assert before == [one["psnr_restored"] for one in points]


def write_results(clean, tmp_path, monkeypatch):
    """What the command writes of a model that returns grey, in its file."""
    monkeypatch.setattr(severity.Restorer, "from_pretrained", lambda *_, **__: turn_grey)
    (tmp_path / "small").mkdir()
    (tmp_path / "small/model.safetensors").write_bytes(b"weights")
    output = tmp_path / "results/severity.json"
    arguments = ["--clean", clean, "--model", tmp_path / "small", "--limit", 1, "--output", output]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return output


def test_command_writes_scores_with_the_weights_checksum_and_a_plot(clean, tmp_path, monkeypatch):
    output = write_results(clean, tmp_path, monkeypatch)
    results = json.loads(output.read_text())
    assert results["model"] == {
        "name": "small",
        "weights_sha256": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
    }
    assert (results["clean"], results["seed"], results["pictures"]) == ("photographs", 2504, 1)
    assert results["kinds"]["haze"][0]["psnr_degraded"] is None
    with Image.open(output.with_suffix(".png")) as picture:
        assert picture.format == "PNG"
    assert {path.name for path in output.parent.iterdir()} == {"severity.json", "severity.png"}


def results_of(points):
    """A file of results in which every kind has the same scores: severity, before, after."""
    names = "severity", "psnr_degraded", "psnr_restored"
    own = [dict(zip(names, point, strict=True)) for point in points]
    return {
        "model": {"name": "small"},
        "clean": "photographs",
        "seed": 2504,
        "pictures": 3,
        "kinds": dict.fromkeys(KINDS, own),
    }


def test_panels_show_both_curves_of_every_kind_and_leave_out_what_is_infinite():
    figure = draw(results_of([(0.0, None, 40.0), (0.1, 30.0, 29.0), (0.5, 20.0, 25.0)]))
    panels = figure.axes[: len(KINDS)]
    assert [axes.get_title() for axes in panels] == [kind.replace("_", " ") for kind in KINDS]
    for axes in panels:
        degraded, restored = (line.get_ydata() for line in axes.lines)
        np.testing.assert_array_equal(degraded, [np.nan, 30, 20])
        np.testing.assert_array_equal(restored, [40, 29, 25])
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == [
        *("degraded", "restored"),
        *("gain", "loss"),
    ]


def test_table_shows_the_gains_and_what_becomes_of_clean_pictures():
    text = render_severity(results_of([(0.0, None, 40.0), (0.1, 30.0, 29.0), (0.5, 20.0, 25.0)]))
    rows = markdown_rows(text)
    assert rows[0] == ["degradation", "gain at 0.1 (dB)", "gain at 0.5 (dB)"]
    assert rows[2:] == [[name, "-1.00", "+5.00"] for name in (*(kind.replace("_", " ") for kind in KINDS), "mean")]
    assert text.endswith("Clean pictures come back at 40.00 dB.")


def test_means_that_are_null_are_called_not_finite():
    text = render_severity(results_of([(0.0, None, None), (0.1, None, 29.0)]))
    assert markdown_rows(text)[-1] == ["mean", "not finite"]
    assert text.endswith("Clean pictures come back some of them unchanged.")
