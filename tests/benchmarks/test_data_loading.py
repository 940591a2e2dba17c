"""The benchmark of the data: what it writes, on pictures far smaller than its own."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks import data_loading
from dataset_scripts import KINDS


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for seed in range(3):
        coarse = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
        Image.fromarray(cv2.resize(coarse, (210, 200))).save(tmp_path / f"pictures/{seed}.jpg")
    return tmp_path / "pictures"


def test_results_name_every_kind_the_machine_and_the_memory(pictures, tmp_path):
    output = tmp_path / "results.json"
    arguments = ["--pictures", pictures, "--limit", 8, "--samples", 10, "--workers", 0, "--output", output]
    result = CliRunner().invoke(data_loading.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    assert [row["kind"] for row in results["kinds"]] == list(KINDS)
    assert all(row["ratio"] == pytest.approx(row["by_patch"] / row["by_picture"]) for row in results["kinds"])
    mixture = results["mixture"]
    assert (mixture["samples"], mixture["pairs_per_second"] > 0) == (10, True)
    assert mixture["end"] >= mixture["warm"] > 0
    assert results["pictures"] == {"count": 3, "first_size": [210, 200]}
    assert results["machine"]["cpu"]
    verdicts = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines()[1:])
    assert len(verdicts) == 9
    assert set(verdicts.values()) <= {"reached", "missed"}


def test_verdicts_follow_from_the_numbers():
    results = {
        "mixture": {"samples": 9, "pairs_per_second": 40.0, "warm": 100, "end": 106},
        "kinds": [{"kind": "haze", "by_patch": 29.0, "by_picture": 10.0, "ratio": 2.9}],
        "wanted": {"pairs_per_second": 40, "ratio": 3, "growth": 0.05},
    }
    assert [row[-1] for row in data_loading._grid(results)[1:]] == ["reached", "missed", "missed"]


def test_generated_pictures_have_two_megapixels(tmp_path, monkeypatch):
    monkeypatch.setattr(data_loading, "GENERATED_COUNT", 1)
    data_loading.generate_pictures(tmp_path)
    (path,) = tmp_path.iterdir()
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.width * picture.height == pytest.approx(2e6, rel=0.01)
        # As many bits a pixel as a camera's file: a smooth one would be decoded too fast.
        assert path.stat().st_size * 8 / (picture.width * picture.height) > 1.5
