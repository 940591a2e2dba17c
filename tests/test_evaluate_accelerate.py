import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import CliRunner

import evaluate_accelerate
from dataset_scripts import KINDS, apply_degradations, sample_degradation
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRImageProcessor, DPMambaIRModel

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A very small restorer that changes pictures: random weights, and a last layer that is not zero."""
    folder = tmp_path_factory.mktemp("model") / "random-restorer"
    torch.manual_seed(0)
    sizes = {"dim": 8, "encoder_depths": (1, 1, 1), "latent_depth": 1, "decoder_depths": (1, 1, 1), "d_state": 2}
    extractor = {"channels": (8, 8, 8, 8), "embedding_dim": 8}
    restorer = DPMambaIRModel(DPMambaIRConfig(**sizes, refinement_depth=1, prompt_dim=4, extractor_config=extractor))
    with torch.no_grad():
        for parameter in restorer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    restorer.save_pretrained(folder)
    DPMambaIRImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A folder of two small photographs of different sizes."""
    folder = tmp_path_factory.mktemp("clean")
    Image.fromarray(data.astronaut()[40:72, 200:240]).save(folder / "astronaut.png")
    Image.fromarray(data.coffee()[100:141, 200:233]).save(folder / "coffee.png")
    return folder


@pytest.fixture(scope="module")
def finished(model, clean, tmp_path_factory):
    """The command's result, and the folder that it wrote into."""
    folder = tmp_path_factory.mktemp("finished")
    result = run(model, clean, folder / "results.json", "--pictures", folder / "pictures")
    assert result.exit_code == 0, result.output
    return result, folder


def run(model, clean, output, *options):
    # Accelerate keeps the precision of a process's first run; a command line is a new process.
    AcceleratorState._reset_state(reset_partial_state=True)
    arguments = ["--model", model, "--clean", clean, "--output", output, *options]
    return CliRunner().invoke(evaluate_accelerate.app, [str(argument) for argument in arguments])


def read_results(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))


def read_picture(path):
    with Image.open(path) as picture:
        return np.array(picture)


def degrade_independently(path, kind, file_index):
    pixels = read_picture(path)
    rng = np.random.default_rng((2504, KINDS.index(kind), file_index))
    degraded = apply_degradations(pixels.astype(np.float32) / 255, [sample_degradation(kind, 0.5, rng)])
    return pixels, np.round(degraded * 255).astype(np.uint8)


def test_results_name_every_task_and_picture_once(finished):
    results = read_results(finished[1] / "results.json")
    assert list(results["tasks"]) == list(KINDS)
    expected = [(kind, name) for kind in KINDS for name in ("astronaut.png", "coffee.png")]
    assert [(one["task"], one["file_name"]) for one in results["images"]] == expected
    assert results["overall"]["pictures"] == 14
    assert results["benchmark"]["severity"] == 0.5
    assert results["benchmark"]["failures"] == []


def test_scores_before_restoring_equal_an_independent_computation(finished, clean):
    for one in read_results(finished[1] / "results.json")["images"]:
        pixels, degraded = degrade_independently(clean / one["file_name"], one["task"], one["file_index"])
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        similarity = structural_similarity(pixels, degraded, channel_axis=2, **window)
        assert one["psnr_degraded"] == pytest.approx(peak_signal_noise_ratio(pixels, degraded), abs=1e-4)
        assert one["ssim_degraded"] == pytest.approx(similarity, abs=1e-4)


def test_scores_after_restoring_equal_those_of_the_shown_pictures(finished, clean):
    result = read_results(finished[1] / "results.json")["images"][0]
    pixels = read_picture(clean / "astronaut.png")
    height, width = pixels.shape[:2]
    grid = read_picture(finished[1] / "pictures" / f"{KINDS[0]}.png")
    degraded, restored, truth = (grid[:height, start : start + width] for start in range(0, 3 * width, width + 4))
    assert (truth == pixels).all()
    assert (degraded == degrade_independently(clean / "astronaut.png", KINDS[0], 0)[1]).all()
    assert (restored != degraded).any()
    assert result["psnr_restored"] == pytest.approx(peak_signal_noise_ratio(truth, restored), abs=1e-4)


def test_averages_and_gains_follow_from_the_pictures(finished):
    results = read_results(finished[1] / "results.json")
    for one in results["images"]:
        assert one["psnr_gain"] == pytest.approx(one["psnr_restored"] - one["psnr_degraded"])
    for task, mean in results["tasks"].items():
        values = [one["ssim_gain"] for one in results["images"] if one["task"] == task]
        assert mean["ssim_gain"] == pytest.approx(sum(values) / 2)
    everything = [one["psnr_restored"] for one in results["images"]]
    assert results["overall"]["psnr_restored"] == pytest.approx(sum(everything) / 14)


def test_results_say_what_was_measured_where(finished, model):
    results = read_results(finished[1] / "results.json")
    parameters = sum(parameter.numel() for parameter in DPMambaIRModel.from_pretrained(model).parameters())
    assert results["model"]["name"] == "random-restorer"
    assert results["model"]["parameters"] == parameters
    assert len(results["model"]["weights_sha256"]) == 64
    assert results["machine"]["torch"] == torch.__version__
    assert results["machine"]["cores"] == os.cpu_count()
    assert results["machine"]["cpu"]


def test_table_plot_and_grids_are_made(finished):
    result, folder = finished
    assert [line.split()[0] for line in result.stdout.splitlines()[-8:]] == [*KINDS, "overall"]
    assert read_picture(folder / "results.png").shape[:2] == (600, 1200)
    assert {path.name for path in (folder / "pictures").iterdir()} == {f"{kind}.png" for kind in KINDS}
    assert {path.name for path in folder.iterdir()} == {"results.json", "results.png", "pictures"}


def test_unreadable_pictures_are_reported_and_the_others_measured(model, clean, tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    for path in clean.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_text("not a picture")
    Image.new("RGB", (10, 30)).save(folder / "small.png")
    result = run(model, folder, tmp_path / "results.json")
    assert result.exit_code == 1
    assert "broken.jpg: cannot identify image file" in result.stderr
    assert "small.png: a picture must be at least 11 x 11 pixels, got 30 x 10; remove it" in result.stderr
    results = read_results(tmp_path / "results.json")
    assert results["benchmark"]["failures"] == ["broken.jpg", "small.png"]
    # A picture keeps its place in the folder, and with it its degradations, whatever happens to its neighbours.
    assert {one["file_index"] for one in results["images"]} == {0, 2}


def test_nothing_readable_means_no_results(model, tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    (folder / "broken.jpg").write_text("not a picture")
    assert run(model, folder, tmp_path / "results.json").exit_code == 1
    assert not (tmp_path / "results.json").exists()


def test_limit_keeps_the_first_pictures_as_they_are(finished, model, clean, tmp_path):
    assert run(model, clean, tmp_path / "results.json", "--limit", 1).exit_code == 0
    everything = read_results(finished[1] / "results.json")["images"]
    first = [one for one in everything if one["file_name"] == "astronaut.png"]
    assert read_results(tmp_path / "results.json")["images"] == first


def test_bfloat16_stays_close_to_float32(finished, model, clean, tmp_path):
    assert run(model, clean, tmp_path / "results.json", "--dtype", "bfloat16").exit_code == 0
    results, expected = read_results(tmp_path / "results.json"), read_results(finished[1] / "results.json")
    assert results["model"]["dtype"] == "bfloat16"
    assert results["overall"]["psnr_degraded"] == expected["overall"]["psnr_degraded"]
    assert results["overall"]["psnr_restored"] == pytest.approx(expected["overall"]["psnr_restored"], abs=0.5)
    assert results["images"] != expected["images"]


@pytest.mark.slow
def test_two_processes_find_the_same_as_one(finished, model, clean, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", ROOT / "evaluate_accelerate.py"]
    outputs = ["--output", tmp_path / "results.json", "--pictures", tmp_path / "pictures"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--model", model, "--clean", clean, *outputs], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results, expected = read_results(tmp_path / "results.json"), read_results(finished[1] / "results.json")
    assert results["machine"]["processes"] == 2
    for one, other in zip(results["images"], expected["images"], strict=True):
        assert one == pytest.approx(other, abs=1e-3)
        assert one["psnr_degraded"] == other["psnr_degraded"]
    for kind in KINDS:
        grids = [read_picture(folder / "pictures" / f"{kind}.png") for folder in (tmp_path, finished[1])]
        # The network's sums may round differently where memory is aligned differently.
        assert np.abs(np.subtract(*grids, dtype=int)).max() <= 1


@pytest.mark.slow
def test_shipped_weights_lose_less_than_a_tenth_of_a_decibel_in_bfloat16(tmp_path):
    (tmp_path / "clean").mkdir()
    Image.fromarray(data.chelsea()[60:220, 100:292]).save(tmp_path / "clean" / "chelsea.png")
    found = {}
    for dtype in ("float32", "bfloat16"):
        output = tmp_path / f"{dtype}.json"
        result = run(SHIPPED, tmp_path / "clean", output, "--dtype", dtype)
        assert result.exit_code == 0, result.output
        found[dtype] = [image["psnr_restored"] for image in read_results(output)["images"]]
    assert found["float32"] != found["bfloat16"]
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--benchmark", "other"], "`--benchmark` must be one of synthetic7, got 'other'; choose one"),
        (["--output", "results.txt"], "`--output` must end in .json, got 'results.txt'; rename it"),
        (["--clean", "EMPTY"], "must hold pictures"),
        (["--model", "EMPTY"], "`--model` must be a folder of a trained restorer: "),
        (["--model", "missing"], "does not exist"),
        (["--dtype", "float16"], "is not one of 'float32', 'bfloat16'"),
    ],
)
def test_wrong_options_end_with_a_message(options, message, model, clean, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    (tmp_path / "empty").mkdir()
    options = [str(tmp_path / "empty") if option == "EMPTY" else option for option in options]
    result = run(model, clean, tmp_path / "results.json", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "results.json").exists()


def test_extractor_alone_is_refused(model, clean, tmp_path):
    DPMambaIRModel.from_pretrained(model).extractor.save_pretrained(tmp_path / "extractor")
    DPMambaIRImageProcessor().save_pretrained(tmp_path / "extractor")
    result = run(tmp_path / "extractor", clean, tmp_path / "results.json")
    assert result.exit_code == 2
    assert not (tmp_path / "results.json").exists()


def test_infinite_psnr_is_written_as_null(tmp_path):
    evaluate_accelerate.write_results({"a": [{"psnr": math.inf, "gain": math.nan, "ssim": 0.5}]}, tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == {"a": [{"psnr": None, "gain": None, "ssim": 0.5}]}


def test_failed_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(TypeError, match="not JSON serializable"):
        evaluate_accelerate.write_results({"a": object()}, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
