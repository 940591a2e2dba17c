"""Two figures of the paper: what spectra and step sizes are measured, on small models and made-up pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.embedding import Spoiled
from benchmarks.figures import BINS, app, measure_frequencies, measure_step_sizes, radial_spectrum
from dataset_scripts import KINDS
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel
from tests.training.runs import SHRUNK


def make_model(**changes):
    torch.manual_seed(0)
    config = {"encoder_depths": (1, 1, 1), "latent_depth": 1, "decoder_depths": (1, 1, 1), **SHRUNK, **changes}
    return DPMambaIRModel(DPMambaIRConfig(**config)).eval()


def spoiled(kind, degraded):
    return Spoiled(KINDS.index(kind), 0.5, torch.rand(1, 3, 32, 32), degraded)


@pytest.mark.parametrize("ring", [2, 16, 31])
def test_ring_holds_the_mean_logarithm_of_its_frequencies(ring):
    phases = np.fft.fft2(np.random.default_rng(0).standard_normal((64, 64)))
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    louder = (distance >= ring / 64) & (distance < (ring + 1) / 64)
    picture = np.fft.ifft2(phases / np.abs(phases) * np.where(louder, 1000, 10)).real
    expected = [3 if place == ring else 1 for place in range(BINS)]
    assert radial_spectrum(torch.from_numpy(picture).expand(3, 64, 64)) == pytest.approx(expected, abs=1e-3)


def test_gap_is_the_decades_by_which_amplitudes_differ():
    clean = torch.rand(1, 3, 64, 64)
    gaps = measure_frequencies({}, [Spoiled(0, 0.5, clean, clean / 10)])
    assert gaps["degraded"] == pytest.approx([-1] * BINS, abs=1e-3)


def test_untrained_model_restores_the_degraded_spectrum():
    gaps = measure_frequencies({"ours": make_model()}, [spoiled("noise", torch.rand(1, 3, 32, 32))])
    assert gaps["ours"] == pytest.approx(gaps["degraded"], abs=1e-5)  # its correction starts at zero


def test_step_sizes_grow_with_the_scans_own():
    model, picture = make_model(), spoiled("rain", torch.rand(1, 3, 32, 32))
    before = measure_step_sizes(model, [picture])
    for name, parameter in model.named_parameters():
        if name.endswith("dt_proj.bias"):
            parameter.data += 1
    after = measure_step_sizes(model, [picture])
    assert before["rain"][0] < after["rain"][0]
    assert [len(before[kind]) for kind in KINDS] == [int(kind == "rain") for kind in KINDS]


def test_model_without_scans_is_refused(monkeypatch):
    monkeypatch.setattr("benchmarks.figures.read_prompts", lambda model, pictures: {})
    with pytest.raises(ValueError, match="`model` must have scans, got none; name a restorer with DP-SSM blocks"):
        measure_step_sizes(make_model(), [spoiled("rain", torch.rand(1, 3, 32, 32))])


@pytest.mark.parametrize(("command", "key"), [("frequencies", "gaps"), ("step-sizes", "step_sizes")])
def test_command_writes_numbers_and_figure(command, key, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    (tmp_path / "clean").mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "clean" / "one.png")
    options = {"--model": tmp_path / "model", "--clean": tmp_path / "clean", "--output": tmp_path / "out" / "f.json"}
    result = CliRunner().invoke(app, [command, *(str(word) for option in options.items() for word in option)])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "f.json").read_text())
    assert content["clean"] == "clean"
    assert set(content[key]) == ({"degraded", "model"} if command == "frequencies" else set(KINDS))
    with Image.open(tmp_path / "out" / "f.png") as picture:
        assert picture.size == (840, 540)
