"""The worst restorations of free photographs: chosen by their gain, drawn, and written for the card."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks import failures
from benchmarks.failures import PANEL, PHOTOGRAPHS, SIZE, app, find_worst, load_photograph, restore_all
from restoration_metrics.figures import GAP


def strip(task, gain):
    return {"task": task, "photograph": "coffee", "psnr_gain": gain}, []


def test_worst_are_the_lowest_gains_and_one_of_each_kind():
    strips = [
        strip("rain", 2),
        strip("blur", -1),
        strip("blur", -3),
        strip("snow", 0),
        strip("haze", 5),
        strip("jpeg", 4),
    ]
    chosen = [(facts["task"], facts["psnr_gain"]) for facts, _ in find_worst(strips)]
    assert chosen == [("blur", -3), ("snow", 0), ("rain", 2), ("jpeg", 4)]


def test_every_photograph_suffers_every_kind_and_the_scores_are_those_of_the_pictures():
    benchmark = {"kinds": ["jpeg", "noise"], "severity": 0.5, "seed": 1}
    strips = restore_all(lambda degraded: degraded, benchmark)
    assert {(facts["task"], facts["photograph"]) for facts, _ in strips} == {
        (kind, name) for kind in ("jpeg", "noise") for name in PHOTOGRAPHS
    }
    for facts, (degraded, restored, clean) in strips:
        assert facts["psnr_gain"] == 0
        assert degraded.size == restored.size == clean.size == SIZE
        assert clean.tobytes() == load_photograph(facts["photograph"]).tobytes() != degraded.tobytes()


@pytest.fixture
def written(tmp_path, monkeypatch):
    """What the command writes with a model that darkens one of its photographs and leaves all others alone."""
    rocket = load_photograph("rocket")
    monkeypatch.setattr(
        failures.Restorer,
        "from_pretrained",
        lambda *_, **__: lambda given: given.point(lambda v: v // 2) if given.tobytes() == rocket.tobytes() else given,
    )
    (tmp_path / "small").mkdir()
    (tmp_path / "small/model.safetensors").write_bytes(b"weights")
    arguments = ["--model", tmp_path / "small", "--output", tmp_path / "out.json", "--picture", tmp_path / "out.png"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return tmp_path


@pytest.mark.ci
@pytest.mark.slow
def test_command_writes_scores_with_the_weights_checksum(written):
    results = json.loads((written / "out.json").read_text())
    assert results["model"] == {
        "name": "small",
        "weights_sha256": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
    }
    assert results["pictures"] == 7 * len(PHOTOGRAPHS)
    assert len({one["task"] for one in results["worst"]}) == failures.STRIPS
    assert results["undamaged"][0]["photograph"] == "rocket"
    assert [one["psnr_restored"] for one in results["undamaged"][1:]] == [None] * 3


@pytest.mark.ci
@pytest.mark.slow
def test_picture_shows_every_strip_and_the_worst_undamaged_photograph(written):
    with Image.open(written / "out.png") as picture:
        strips = failures.STRIPS + 1
        height = failures.CAPTION + GAP + PANEL[1]
        assert picture.size == (3 * PANEL[0] + 2 * GAP, strips * height + (strips - 1) * GAP)
        last = picture.crop((0, picture.height - PANEL[1], PANEL[0], picture.height))
    left, top = (SIZE[0] - PANEL[0]) // 2, (SIZE[1] - PANEL[1]) // 2
    assert last.tobytes() == load_photograph("rocket").crop((left, top, left + PANEL[0], top + PANEL[1])).tobytes()
    assert {path.name for path in written.iterdir()} == {"small", "out.json", "out.png"}
