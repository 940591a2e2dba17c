"""The benchmark of tiles: what it compares and writes, on pictures far smaller than its own."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks import tiling
from dataset_scripts import KINDS
from tests.modeling_dpmambair.models import small_model


def test_comparison_tells_a_seam_from_an_error_everywhere():
    whole = torch.zeros(1, 3, 64, 8)
    evenly = tiling.compare(whole + 0.1, whole, (48, 8), 16)
    assert evenly == pytest.approx({"psnr": 20, "seam": 1}, abs=1e-3)
    line = whole.clone()
    (_, lower) = tiling.plan_tiles(64, 8, (48, 8), 16)
    line[:, :, lower.rows.enter] = 0.1
    assert tiling.compare(line, whole, (48, 8), 16)["seam"] > 1000


def test_enlarged_pictures_are_of_eight_bits(tmp_path):
    Image.fromarray(np.full((5, 7, 3), 90, np.uint8)).save(tmp_path / "a.png")
    degraded = tiling.degrade(str(tmp_path / "a.png"), "noise", 0, 64)
    assert degraded.shape == (1, 3, 64, 64)
    torch.testing.assert_close(degraded * 255, torch.round(degraded * 255))


@pytest.mark.slow
def test_results_name_both_ways_at_every_overlap_and_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "measure_tile", lambda name, side: {"measured": side * 2**20, "planned": 2**30})
    monkeypatch.setattr(tiling, "KINDS", KINDS[:2])
    small_model().save_pretrained(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(256, size=(90, 70, 3), dtype=np.uint8)).save(
        tmp_path / "pictures/a.png"
    )
    output = tmp_path / "tiling.json"
    arguments = ["--model", tmp_path / "model", "--pictures", tmp_path / "pictures", "--side", 512, "--output", output]
    result = CliRunner().invoke(tiling.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    assert [one["kind"] for one in results["records"]] == list(KINDS[:2])
    assert all(set(one["overlaps"]) == {"16", "32", "64"} for one in results["records"])
    assert results["memory"] == {
        name: {"measured": 512 * 2**20, "planned": 2**30} for name in ("light", "small", "base")
    }
    assert "share" in result.stdout
    assert "512 MiB" in result.stdout
    with Image.open(tmp_path / "tiling.png") as picture:
        assert picture.width == 3 * 512 + 2 * 4
