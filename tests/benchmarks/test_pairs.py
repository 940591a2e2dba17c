"""The scores of pairs before and after a restoration, read through the builder, and their table."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from benchmarks import pairs
from benchmarks.pairs_table import render_pairs
from modeling_dpmambair import DPMambaIRImageProcessor, Restorer
from tests.benchmarks.rows import markdown_rows
from tests.modeling_dpmambair.models import small_model


def test_means_are_those_of_the_pictures_before_and_after(tmp_path):
    small_model().save_pretrained(tmp_path / "model")
    DPMambaIRImageProcessor().save_pretrained(tmp_path / "model")
    restorer = Restorer.from_pretrained(tmp_path / "model", dtype="float32")
    rng, before, after = np.random.default_rng(0), [], []
    for kind in ("degraded", "clean"):
        (tmp_path / f"street/{kind}").mkdir(parents=True)
    for number, spread in enumerate((4, 40)):
        clean = rng.integers(50, 200, (24, 32, 3)).astype(np.uint8)
        degraded = (clean + rng.integers(-spread, spread, clean.shape)).astype(np.uint8)
        Image.fromarray(clean).save(tmp_path / f"street/clean/{number}.png")
        Image.fromarray(degraded).save(tmp_path / f"street/degraded/{number}.png")
        before.append(peak_signal_noise_ratio(clean, degraded))
        after.append(peak_signal_noise_ratio(clean, np.asarray(restorer(Image.fromarray(degraded)))))
    output = tmp_path / "results.json"
    arguments = [tmp_path / "street", "--model", tmp_path / "model", "--output", output]
    result = CliRunner().invoke(pairs.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    weights = (tmp_path / "model/model.safetensors").read_bytes()
    assert results["model"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    (found,) = results["sets"]
    assert (found["folder"], found["pictures"]) == ("street", 2)
    assert found["psnr_degraded"] == pytest.approx(np.mean(before))
    assert found["psnr_restored"] == pytest.approx(np.mean(after))
    row = markdown_rows(render_pairs(results))[2]
    assert row[:4] == ["street", "2", f"{np.mean(before):.2f}", f"{np.mean(after):.2f}"]


def test_known_folders_appear_under_the_names_of_their_test_sets():
    scores = {f"{metric}_{moment}": 1.0 for metric in ("psnr", "ssim") for moment in ("degraded", "restored", "gain")}
    results = {
        "model": {"name": "small-one", "dtype": "float32"},
        "machine": {"cpu": "a", "cores": 2, "device": "cpu", "processes": 1, "threads": 1, "torch": "2"},
        "date": "2026-01-02T03:04:05+00:00",
        "sets": [{"folder": "lowlight_lol15", "pictures": 15, **scores}],
    }
    text = render_pairs(results)
    assert markdown_rows(text)[2] == ["LOL (low light)", "15", "1.00", "1.00", "+1.00", "1.0000", "1.0000", "+1.0000"]
    assert "Measured 2026-01-02 on a, 2 cores" in text
