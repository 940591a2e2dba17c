import doctest
import importlib
import inspect
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from evaluate.loading import evaluation_module_factory, import_main_class
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchvision.models import get_model

from restoration_metrics import load_lpips, lpips_distance
from tests.documents import code_blocks

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


def test_lines_of_the_document_load_the_modules(pairs, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {}
    (block,) = code_blocks("docs/evaluation.md", "python")
    exec(block, found)
    scores = [found[name].compute(predictions=pairs[0], references=pairs[1])[name] for name in ("psnr", "ssim")]
    assert scores == [load(name).compute(predictions=pairs[0], references=pairs[1])[name] for name in ("psnr", "ssim")]


def test_lpips_module_takes_a_backbone(pairs, tmp_path):
    restored, clean = pairs
    features = {f"features.{key}": value for key, value in get_model("squeezenet1_1").features.state_dict().items()}
    save_file(features, tmp_path / "backbone.safetensors")
    result = load("lpips").compute(
        predictions=[restored[0], clean[1]], references=clean, backbone=str(tmp_path / "backbone.safetensors")
    )
    tensors = [torch.from_numpy(np.array(each)).permute(2, 0, 1)[None] / 255 for each in (restored[0], clean[0])]
    perceptual = load_lpips("squeeze", tmp_path / "backbone.safetensors")
    assert result["lpips_per_image"][0] == pytest.approx(lpips_distance(*tensors, perceptual).item(), abs=1e-6)
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


MODULES = ("psnr", "ssim", "lpips")


@pytest.mark.parametrize("name", MODULES)
def test_module_passes_the_checks_that_evaluate_makes_of_its_own(name, monkeypatch):
    """Those of `LocalModuleTest.test_load` in its repository, which no distribution of it holds."""
    monkeypatch.chdir(ROOT)
    found = evaluation_module_factory(f"restoration_metrics/{name}", module_type="metric")
    module = importlib.import_module(found.module_path)
    parameters = inspect.signature(import_main_class(module.__name__)._compute).parameters.values()
    assert not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    monkeypatch.setattr(doctest, "ELLIPSIS_MARKER", "[...]")
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted > 1


@pytest.mark.parametrize("name", MODULES)
def test_empty_lists_are_refused(name, tmp_path):
    options = {"backbone": str(tmp_path)} if name == "lpips" else {}
    with pytest.raises(
        ValueError, match="`predictions` must hold at least one picture, got none; add the pictures to"
    ):
        load(name).compute(predictions=[], references=[], **options)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_grey_pictures_are_refused(name):
    pictures = [Image.new("L", (32, 32))]
    with pytest.raises(ValueError, match=r"pictures must be RGB of 8 bits, .*got uint8 \(32, 32\); convert them"):
        load(name).compute(predictions=pictures, references=pictures)


def test_small_pictures_are_refused():
    pictures = [Image.new("RGB", (10, 30))]
    with pytest.raises(ValueError, match=r"at least 11 x 11 pixels, got uint8 \(30, 10, 3\); convert them"):
        load("ssim").compute(predictions=pictures, references=pictures)


def test_lpips_module_refuses_what_it_cannot_measure(tmp_path):
    features = {f"features.{key}": value for key, value in get_model("squeezenet1_1").features.state_dict().items()}
    save_file(features, file := str(tmp_path / "backbone.safetensors"))
    small, large = ([Image.new("RGB", (size, size))] for size in (31, 32))
    with pytest.raises(ValueError, match=r"at least 32 x 32 pixels, got uint8 \(31, 31, 3\); convert them"):
        load("lpips").compute(predictions=small, references=small, backbone=file)
    with pytest.raises(ValueError, match="`network` must be one of squeeze, alex, vgg, got 'resnet'; choose one"):
        load("lpips").compute(predictions=large, references=large, backbone=file, network="resnet")
    save_file({name: value for name, value in features.items() if name != "features.0.weight"}, file)
    text = "`backbone` must hold torchvision's squeezenet1_1, got no features.0.weight in .*; give the file that fits"
    with pytest.raises(ValueError, match=text):
        load("lpips").compute(predictions=large, references=large, backbone=file)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_module_runs_where_this_project_is_not(name, tmp_path):
    shutil.copytree(ROOT / "restoration_metrics" / name, tmp_path / "restoration_metrics" / name)
    program = f"""
import doctest, importlib, sys
import evaluate.loading
module = importlib.import_module(evaluate.loading.evaluation_module_factory("restoration_metrics/{name}").module_path)
results = doctest.testmod(module)
assert results.failed == 0 and results.attempted > 1, results
assert not any(each.split(".")[0] == "restoration_metrics" for each in sys.modules), "taken from the project"
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
