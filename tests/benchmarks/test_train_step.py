"""The benchmark of a training step: what it writes, on pictures of its own."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks import train_step


@pytest.mark.slow
def test_results_say_step_wait_floor_and_profile(tmp_path):
    for seed in range(train_step.BATCH):
        noise = np.random.default_rng(seed).integers(256, size=(200, 200, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{seed}.png")
    output = tmp_path / "results" / "train_step.json"
    arguments = ["--clean", tmp_path, "--steps", 3, "--workers", 1, "--output", output]
    result = CliRunner().invoke(train_step.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    floor = results["matmul_seconds"] + results["traffic_seconds"]
    assert results["over_floor"] == pytest.approx(results["step_seconds"] / floor)
    assert 0 <= results["waiting_share"] < 1
    assert any("selective_scan" in one["operator"] for one in results["operators"])
    assert results["operators"][-1]["operator"] == "others"
