import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchvision.models import get_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pairs():
    """Restored and clean pictures of two sizes."""
    clean = [data.astronaut()[:40, :52], data.coffee()[:33, :64]]
    return [Image.fromarray(picture // 2 + 9) for picture in clean], [Image.fromarray(picture) for picture in clean]


def load(name):
    return evaluate.load(str(ROOT / "restoration_metrics" / name))


def test_psnr_module_gives_each_picture_and_the_mean(pairs):
    restored, clean = pairs
    expected = [
        peak_signal_noise_ratio(np.asarray(one), np.asarray(other)) for one, other in zip(clean, restored, strict=True)
    ]
    result = load("psnr").compute(predictions=restored, references=clean)
    assert result["psnr_per_image"] == pytest.approx(expected, abs=1e-4)
    assert result["psnr"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_ssim_module_gives_each_picture_and_the_mean(pairs):
    restored, clean = pairs
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        structural_similarity(np.asarray(one), np.asarray(other), channel_axis=2, **window)
        for one, other in zip(clean, restored, strict=True)
    ]
    result = load("ssim").compute(predictions=restored, references=clean)
    assert result["ssim_per_image"] == pytest.approx(expected, abs=1e-4)
    assert result["ssim"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_lpips_module_takes_a_backbone(pairs, tmp_path):
    restored, clean = pairs
    features = {f"features.{key}": value for key, value in get_model("squeezenet1_1").features.state_dict().items()}
    save_file(features, tmp_path / "backbone.safetensors")
    result = load("lpips").compute(
        predictions=[restored[0], clean[1]], references=clean, backbone=str(tmp_path / "backbone.safetensors")
    )
    assert result["lpips_per_image"][0] > 0
    assert result["lpips_per_image"][1] == 0
    assert result["lpips"] == pytest.approx(np.mean(result["lpips_per_image"]))


def test_pictures_are_added_one_by_one(pairs):
    restored, clean = pairs
    module = load("psnr")
    for prediction, reference in zip(restored, clean, strict=True):
        module.add(prediction=prediction, reference=reference)
    assert module.compute() == load("psnr").compute(predictions=restored, references=clean)


def test_module_loads_by_its_relative_path_without_a_network(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("reached for the network"))
    assert evaluate.load("restoration_metrics/psnr").name == "psnr"


def test_folders_named_like_packages_hide_none():
    import lpips

    assert lpips.LPIPS.__module__ == "lpips.lpips"
    assert torch.nn.Module in lpips.LPIPS.__mro__
