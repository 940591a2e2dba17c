"""The scores of pairs as they come: against scikit-image, read through the builder."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from benchmarks import degraded


def test_psnr_is_the_mean_of_the_pictures(tmp_path):
    rng, expected = np.random.default_rng(0), []
    for kind in ("degraded", "clean"):
        (tmp_path / f"pairs/{kind}").mkdir(parents=True)
    for number, spread in enumerate((4, 40)):
        clean = rng.integers(50, 200, (24, 32, 3)).astype(np.uint8)
        noisy = (clean + rng.integers(-spread, spread, clean.shape)).astype(np.uint8)
        Image.fromarray(clean).save(tmp_path / f"pairs/clean/{number}.png")
        Image.fromarray(noisy).save(tmp_path / f"pairs/degraded/{number}.png")
        expected.append(peak_signal_noise_ratio(clean, noisy))
    output = tmp_path / "results.json"
    result = CliRunner().invoke(degraded.app, [str(tmp_path / "pairs"), "--output", str(output)])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(output.read_text())
    assert (found["folder"], found["pairs"]) == ("pairs", 2)
    assert found["psnr"] == pytest.approx(np.mean(expected))
    assert (found["lowest"], found["highest"]) == pytest.approx((min(expected), max(expected)))
    errors = 10 ** (-np.array(expected) / 10)
    assert found["of_mean_error"] == pytest.approx(-10 * np.log10(errors.mean()))
    assert f"{np.mean(expected):.2f}" in result.stdout
