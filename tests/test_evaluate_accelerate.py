"""The command that measures: scores against others' own, test sets of every sort, interruptions, and wrong input."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import lpips
import numpy as np
import pyarrow.parquet
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from spandrel.architectures.NAFNet.__arch.NAFNet_arch import NAFNet
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
from torchmetrics.functional.image import structural_similarity_index_measure as torchmetrics_ssim
from torchvision.models import get_model
from typer.testing import CliRunner

import evaluate_accelerate
from dataset_scripts import KINDS, apply_degradations, sample_degradation
from dpmambair.shipped import SHIPPED
from evaluation.measuring import Meter
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRImageProcessor, DPMambaIRModel

ROOT = Path(__file__).resolve().parents[1]
WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
# What a run writes, beside the summary.
SUFFIXES = (".json", ".md", ".parquet", ".png", ".tex")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A very small restorer that changes pictures: random weights, and a last layer that is not zero."""
    return save_model(tmp_path_factory.mktemp("model") / "random-restorer", 0)


def save_model(folder, seed, **changes):
    torch.manual_seed(seed)
    sizes = {"dim": 8, "encoder_depths": (1, 1, 1), "latent_depth": 1, "decoder_depths": (1, 1, 1), "d_state": 2}
    extractor = {"channels": (8, 8, 8, 8), "embedding_dim": 8}
    sizes |= {"refinement_depth": 1, "prompt_dim": 4, "extractor_config": extractor}
    restorer = DPMambaIRModel(DPMambaIRConfig(**sizes | changes))
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
def street(tmp_path_factory):
    """A folder of three noisy pairs, whose suffixes differ."""
    folder, rng = tmp_path_factory.mktemp("pairs") / "street", np.random.default_rng(0)
    for role in ("degraded", "clean"):
        (folder / role).mkdir(parents=True)
    for number, photograph in enumerate((data.astronaut(), data.coffee(), data.chelsea())):
        truth = photograph[100:136, 100:148]
        noisy = np.clip(truth + rng.normal(0, 20, truth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(truth).save(folder / f"clean/{number}.bmp")
        Image.fromarray(noisy).save(folder / f"degraded/{number}.png")
    return folder


@pytest.fixture(scope="module")
def finished(model, clean, tmp_path_factory):
    """The command's result on the synthetic benchmark, and the folder that it wrote into."""
    folder = tmp_path_factory.mktemp("finished")
    result = run(model, folder / "results.json", "--clean", clean, "--pictures", folder / "pictures")
    assert result.exit_code == 0, result.output
    return result, folder


@pytest.fixture(scope="module")
def measured(model, street, tmp_path_factory):
    """The results file of the pairs alone."""
    output = tmp_path_factory.mktemp("measured") / "expected.json"
    measure(model, output, "--pairs", street)
    return output


@pytest.fixture(scope="module")
def measured_classically(model, street, tmp_path_factory):
    """The results file of the pairs beside classical methods."""
    output = tmp_path_factory.mktemp("measured_classically") / "expected.json"
    measure(model, output, "--pairs", street, "--classical")
    return output


def run(model, output, *options):
    # Accelerate keeps the precision of a process's first run; a command line is a new process.
    AcceleratorState._reset_state(reset_partial_state=True)
    arguments = ["--model", model, "--output", output, *options]
    return CliRunner().invoke(evaluate_accelerate.app, [str(argument) for argument in arguments])


def measure(model, output, *options):
    """Run the command where it must succeed, and return its summary."""
    result = run(model, output, *options)
    assert result.exit_code == 0, result.output
    return read_results(output)


def read_results(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))


def read_rows(path, method):
    """Return the rows of one method in a run's Parquet."""
    rows = pyarrow.parquet.read_table(path.with_suffix(".parquet")).to_pylist()
    return [row for row in rows if row["method"] == method]


def read_picture(path):
    with Image.open(path) as picture:
        return np.array(picture)


def degrade_independently(path, kind, index):
    pixels = read_picture(path)
    rng = np.random.default_rng((2504, KINDS.index(kind), index))
    degraded = apply_degradations(pixels.astype(np.float32) / 255, [sample_degradation(kind, 0.5, rng)])
    return pixels, np.round(degraded * 255).astype(np.uint8)


def to_batch(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() / 255


# Scores


def test_every_picture_of_every_degradation_is_measured_once(finished):
    rows = read_rows(finished[1] / "results.json", "random-restorer")
    expected = [(kind, name) for kind in KINDS for name in ("astronaut.png", "coffee.png")]
    assert [(row["set"], row["file_name"]) for row in rows] == expected
    results = read_results(finished[1] / "results.json")
    assert [(each["name"], each["task"], each["pairs"]) for each in results["sets"]] == [
        (kind, kind, 2) for kind in KINDS
    ]
    assert results["benchmark"]["severity"] == 0.5
    assert results["failures"] == {}


def test_scores_before_restoring_equal_those_of_scikit_image_and_torchmetrics(finished, clean):
    for row in read_rows(finished[1] / "results.json", "degraded"):
        pixels, degraded = degrade_independently(clean / row["file_name"], row["set"], row["index"])
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(pixels, degraded), abs=1e-4)
        similarity = structural_similarity(pixels, degraded, channel_axis=2, **WINDOW)
        assert row["ssim"] == pytest.approx(similarity, abs=1e-4)
        pair = to_batch(degraded), to_batch(pixels)
        assert row["psnr"] == pytest.approx(torchmetrics_psnr(*pair, data_range=1.0).item(), abs=1e-3)
        _, image = torchmetrics_ssim(*pair, sigma=1.5, data_range=1.0, return_full_image=True)
        assert row["ssim"] == pytest.approx(image[..., 5:-5, 5:-5].mean().item(), abs=1e-3)


def test_scores_after_restoring_equal_those_of_the_shown_pictures(finished, clean):
    row = read_rows(finished[1] / "results.json", "random-restorer")[0]
    pixels = read_picture(clean / "astronaut.png")
    width = pixels.shape[1]
    strip = read_picture(finished[1] / "pictures" / KINDS[0] / "0.png")
    degraded, restored, truth = (strip[:, start : start + width] for start in range(0, 3 * width, width + 4))
    assert (truth == pixels).all()
    assert (degraded == degrade_independently(clean / "astronaut.png", KINDS[0], 0)[1]).all()
    assert (restored != degraded).any()
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, restored), abs=1e-4)


def test_averages_and_gains_follow_from_the_pictures(finished):
    results = read_results(finished[1] / "results.json")
    before, after = (read_rows(finished[1] / "results.json", name) for name in ("degraded", "random-restorer"))
    for each in results["sets"]:
        own = [row["ssim_y"] for row in after if row["set"] == each["name"]]
        assert each["scores"]["random-restorer"]["ssim_y"] == pytest.approx(sum(own) / 2)
        gains = [
            two["psnr"] - one["psnr"] for one, two in zip(before, after, strict=True) if one["set"] == each["name"]
        ]
        found = each["scores"]["random-restorer"]["psnr_gains"]
        assert (found["lowest"], found["highest"]) == pytest.approx((min(gains), max(gains)))
        assert found["worse"] == sum(gain < 0 for gain in gains)
    everything = [row["psnr"] for row in after]
    assert results["overall"]["random-restorer"]["psnr"] == pytest.approx(sum(everything) / 14)


def test_results_say_what_was_measured_where(finished, model):
    results = read_results(finished[1] / "results.json")
    parameters = sum(parameter.numel() for parameter in DPMambaIRModel.from_pretrained(model).parameters())
    assert results["model"]["name"] == "random-restorer"
    assert results["model"]["parameters"] == parameters
    assert len(results["model"]["weights_sha256"]) == 64
    assert results["machine"]["torch"] == torch.__version__
    assert results["machine"]["cores"] == os.cpu_count()
    assert results["command"].startswith("python ")
    if (ROOT / ".git").exists():
        assert len(results["commit"].rstrip("+")) == 40


def test_files_are_made_and_the_table_is_printed(finished):
    result, folder = finished
    assert [line.split("|")[1].strip() for line in result.stdout.splitlines()[-2:]] == ["noise (2)"] * 2
    assert {path.name for path in folder.iterdir()} == {"pictures", *(f"results{suffix}" for suffix in SUFFIXES)}
    assert read_picture(folder / "results.png").shape[:2] == (600, 1200)
    assert {path.name for path in (folder / "pictures").iterdir()} == set(KINDS)


def test_border_is_cut_off_before_scoring(model, street, tmp_path):
    measure(model, tmp_path / "r.json", "--pairs", street, "--border", 3)
    row = read_rows(tmp_path / "r.json", "degraded")[1]
    pair = (read_picture(street / name)[3:-3, 3:-3] for name in ("clean/1.bmp", "degraded/1.png"))
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(*pair), abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*pretrained.*:UserWarning", "ignore:.*weight enum.*:UserWarning")
def test_lpips_is_that_of_its_own_package(model, street, tmp_path):
    torch.manual_seed(1)
    features, file = get_model("squeezenet1_1").features, tmp_path / "squeeze.safetensors"
    save_file({f"features.{key}": value for key, value in features.state_dict().items()}, file)
    results = measure(model, tmp_path / "r.json", "--pairs", street, "--lpips", "squeeze", file)
    assert results["lpips"]["network"] == "squeeze"
    reference = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    for index in range(reference.net.N_slices):
        for position, layer in getattr(reference.net, f"slice{index + 1}").named_children():
            layer.load_state_dict(features[int(position)].state_dict())
    for row in read_rows(tmp_path / "r.json", "degraded"):
        names = (f"degraded/{row['index']}.png", f"clean/{row['index']}.bmp")
        pair = [to_batch(read_picture(street / name)).float() for name in names]
        with torch.no_grad():
            assert row["lpips"] == reference(*pair, normalize=True).item()


# Test sets


def test_folders_of_pairs_are_measured_under_their_names(measured, street):
    (found,) = read_results(measured)["sets"]
    assert (found["name"], found["pairs"], found["published"], found["size"]) == ("street", 3, None, [36, 48])
    for row in read_rows(measured, "degraded"):
        truth = read_picture(street / f"clean/{row['index']}.bmp")
        noisy = read_picture(street / f"degraded/{row['index']}.png")
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, noisy), abs=1e-4)


def test_any_two_folders_are_measured(model, measured, street, tmp_path):
    for given, role in (("before", "degraded"), ("after", "clean")):
        (tmp_path / given).symlink_to(street / role)
    options = ["--degraded", tmp_path / "before", "--clean", tmp_path / "after"]
    results = measure(model, tmp_path / "r.json", *options)
    assert results["sets"][0]["scores"] == read_results(measured)["sets"][0]["scores"]
    assert results["benchmark"] is None


def test_corpora_are_found_below_their_names_and_samples_are_known(model, street, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rain100l").symlink_to(street)
    for role, folder in (("degraded", "low"), ("clean", "high")):
        (tmp_path / "data/lol/eval15").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/lol/eval15" / folder).symlink_to(street / role)
    (tmp_path / "data/cbsd68").symlink_to(street / "clean")
    names = "rain100l,lol,cbsd68/noise_sigma25,cbsd68/pixelated"
    results = measure(model, tmp_path / "r.json", "--corpus", names, tmp_path / "data", "--classical", "--limit", 1)
    assert [each["name"] for each in results["sets"]] == names.split(",")
    assert [each["published"] for each in results["sets"]] == [100, 15, 68, 68]
    methods = [list(each["scores"])[2:] for each in results["sets"]]
    assert methods == [["median", "guided filter"], ["CLAHE", "gamma"], ["non-local means", "BM3D"], []]
    assert results["methods"]["gamma"] == "exponent 1 / 2.2"
    assert "| degraded |" in (tmp_path / "r.md").read_text()
    assert "rain100l (1 of 100)" in (tmp_path / "r.md").read_text()
    assert "DPMambaIR (paper, Table IX, v3) | - | - | - | 23.35/0.800" in (tmp_path / "r.md").read_text()
    assert r"lol (1 of 15) & cbsd68/noise\_sigma25 (1 of 68)" in (tmp_path / "r.tex").read_text()


def test_each_corpus_may_have_a_model_of_its_own(street, tmp_path):
    for seed, name in enumerate(("rain100l", "lol")):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(street)
        save_model(tmp_path / "single" / name, seed)
    results = measure(tmp_path / "single", tmp_path / "r.json", "--corpus", "rain100l,lol", tmp_path / "data")
    weights = [(tmp_path / f"single/{name}/model.safetensors").read_bytes() for name in ("rain100l", "lol")]
    assert results["model"]["weights_sha256"] == sha256(b"".join(weights)).hexdigest()
    one, other = (each["scores"] for each in results["sets"])
    assert one["degraded"] == other["degraded"]
    assert one["single"]["psnr"] != other["single"]["psnr"]


@pytest.mark.ci
@pytest.mark.slow
def test_composites_and_unseen_degradations_are_benchmarks(model, clean, tmp_path):
    for name, count in (("composites2", 21), ("composites3", 7), ("composites7", 7), ("unseen", 2)):
        options = ["--clean", clean, "--benchmark", name, "--limit", 1]
        results = measure(model, tmp_path / f"{name}.json", *options)
        assert len(results["sets"]) == count
        assert results["benchmark"]["name"] == name
        assert all(each["scores"]["degraded"]["psnr"] < 60 for each in results["sets"])


def test_networks_of_others_are_measured_by_their_files(model, street, tmp_path):
    torch.manual_seed(0)
    network = NAFNet(img_channel=3, width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    torch.save({"params": network.state_dict()}, tmp_path / "nafnet-8.pth")
    results = measure(model, tmp_path / "r.json", "--pairs", street, "--spandrel", tmp_path / "nafnet-8.pth")
    degraded = to_batch(read_picture(street / "degraded/0.png")).float()
    with torch.no_grad():
        restored = network(degraded).clamp(0, 1).mul(255).round()[0].permute(1, 2, 0).byte().numpy()
    expected = peak_signal_noise_ratio(read_picture(street / "clean/0.bmp"), restored)
    assert read_rows(tmp_path / "r.json", "nafnet-8")[0]["psnr"] == pytest.approx(expected, abs=1e-3)
    assert results["methods"]["nafnet-8"].startswith("weights ")


# Failures and interruptions


def test_unreadable_pictures_are_reported_once_and_the_others_measured(model, clean, tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    for path in clean.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_text("not a picture")
    os.mkfifo(folder / "pipe.png")
    Image.new("RGB", (10, 30)).save(folder / "small.png")
    result = run(model, tmp_path / "results.json", "--clean", folder)
    assert result.exit_code == 1
    assert result.stderr.count(f"broken.jpg: {folder / 'broken.jpg'}: cannot identify image file") == 1
    assert "pipe.png: " in result.stderr
    assert "small.png: `restored` must be at least 11 x 11 pixels, got 30 x 10; measure larger images" in result.stderr
    results = read_results(tmp_path / "results.json")
    assert results["failures"] == dict.fromkeys(sorted(KINDS), ["broken.jpg", "pipe.png", "small.png"])
    # A picture keeps its place in the folder, and with it its degradations, whatever happens to its neighbours.
    assert {row["index"] for row in read_rows(tmp_path / "results.json", "degraded")} == {0, 2}


def test_pairs_of_unequal_size_are_reported_and_the_others_measured(model, street, tmp_path):
    folder = tmp_path / "street"
    for path in street.rglob("*.*"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (48, 35)).save(folder / "clean/1.bmp")
    result = run(model, tmp_path / "r.json", "--pairs", folder)
    assert result.exit_code == 1
    assert (
        "clean/1.bmp: the clean picture must have 48 x 36 pixels like the degraded one, got 48 x 35" in result.stderr
    )
    assert read_results(tmp_path / "r.json")["sets"][0]["pairs"] == 2


def test_nothing_readable_means_no_results(model, tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    (folder / "broken.jpg").write_text("not a picture")
    assert run(model, tmp_path / "results.json", "--clean", folder).exit_code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"clean"}


def test_limit_keeps_the_first_pictures_as_they_are(finished, model, clean, tmp_path):
    measure(model, tmp_path / "results.json", "--clean", clean, "--limit", 1)
    everything = read_rows(finished[1] / "results.json", "random-restorer")
    first = [row for row in everything if row["file_name"] == "astronaut.png"]
    assert read_rows(tmp_path / "results.json", "random-restorer") == first


def interrupt_after(monkeypatch, pictures):
    """Let Ctrl-C be pressed when so many pictures are measured."""
    measure, done = Meter.measure, []

    def press(self, *given):
        if len(done) == pictures:
            raise KeyboardInterrupt
        done.append(given)
        return measure(self, *given)

    monkeypatch.setattr(Meter, "measure", press)


@pytest.mark.parametrize("pictures", range(4))
def test_run_interrupted_at_any_picture_and_restarted_writes_the_same_bytes(
    model, measured_classically, street, tmp_path, monkeypatch, pictures
):
    options = ["--pairs", street, "--classical"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, pictures)
        interrupted = run(model, tmp_path / "r.json", *options)
    if pictures < 3:
        assert interrupted.exit_code != 0
        assert not (tmp_path / "r.json").exists()
        assert (tmp_path / "r.partial").is_dir()
        with monkeypatch.context() as patch:
            interrupt_after(patch, 3 - pictures)  # what is done is not measured again
            measure(model, tmp_path / "r.json", *options)
    for suffix in SUFFIXES:
        assert (tmp_path / f"r{suffix}").read_bytes() == measured_classically.with_suffix(suffix).read_bytes()
    assert not (tmp_path / "r.partial").exists()


def test_line_torn_by_a_kill_is_measured_again(model, measured, street, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        run(model, tmp_path / "r.json", "--pairs", street)
    (journal,) = (tmp_path / "r.partial").glob("*.jsonl")
    journal.write_text(journal.read_text()[:-40])
    measure(model, tmp_path / "r.json", "--pairs", street)
    assert (tmp_path / "r.json").read_bytes() == measured.read_bytes()


def test_interrupted_run_goes_on_with_the_same_settings_only(model, street, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        run(model, tmp_path / "r.json", "--pairs", street)
    monkeypatch.setenv("COLUMNS", "1000")
    result = run(model, tmp_path / "r.json", "--pairs", street, "--border", 2)
    assert result.exit_code == 2
    rule = "`--output`: settings must be those of the run that was interrupted, got others for border; give the same"
    assert rule in result.stderr
    assert f"delete {tmp_path / 'r.partial'} to begin anew" in result.stderr


@pytest.mark.slow
def test_killed_process_goes_on_to_the_same_bytes(model, clean, tmp_path):
    command = [sys.executable, ROOT / "evaluate_accelerate.py", "--model", model, "--clean", clean, "--output"]
    expected, output = tmp_path / "one" / "results.json", tmp_path / "two" / "results.json"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, expected], env=environment, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, output], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not any(path.stat().st_size for path in output.parent.glob("*.partial/*.jsonl")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists(), "it was too quick to be killed"
    subprocess.run([*command, output], env=environment, check=True, capture_output=True)
    for suffix in SUFFIXES:
        assert output.with_suffix(suffix).read_bytes() == expected.with_suffix(suffix).read_bytes()


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_interrupted_and_find_the_same(
    finished, model, clean, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        run(model, tmp_path / "results.json", "--clean", clean)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", ROOT / "evaluate_accelerate.py"]
    options = ["--model", model, "--clean", clean, "--output", tmp_path / "results.json"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"results{suffix}" for suffix in SUFFIXES}
    for method in ("degraded", "random-restorer"):
        rows, expected = (read_rows(folder / "results.json", method) for folder in (tmp_path, finished[1]))
        for row, other in zip(rows, expected, strict=True):
            # The network's sums may round differently with another number of threads.
            assert row == pytest.approx(other, abs=1e-3)


def test_bfloat16_stays_close_to_float32(finished, model, clean, tmp_path):
    results = measure(model, tmp_path / "results.json", "--clean", clean, "--dtype", "bfloat16", "--limit", 1)
    assert results["model"]["dtype"] == "bfloat16"

    def read_both(method):
        expected = read_rows(finished[1] / "results.json", method)
        expected = [row for row in expected if row["file_name"] == "astronaut.png"]
        return read_rows(tmp_path / "results.json", method), expected

    before, expected = read_both("degraded")
    assert before == expected
    after, expected = read_both("random-restorer")
    assert [row["psnr"] for row in after] == pytest.approx([row["psnr"] for row in expected], abs=0.5)
    assert after != expected


@pytest.mark.ci
@pytest.mark.slow
def test_shipped_weights_lose_less_than_a_twentieth_of_a_decibel_in_bfloat16(tmp_path):
    # Of seven kinds on four photographs: one score moves either way, by up to a quarter of a decibel, where it depends
    # on the picture's brightness, which bfloat16 rounds.
    (tmp_path / "clean").mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(data, name)()[60:220, 100:292]).save(tmp_path / "clean" / f"{name}.png")
    found = {}
    for dtype in ("float32", "bfloat16"):
        measure(SHIPPED, tmp_path / f"{dtype}.json", "--clean", tmp_path / "clean", "--dtype", dtype)
        found[dtype] = [row["psnr"] for row in read_rows(tmp_path / f"{dtype}.json", SHIPPED.name)]
    assert found["float32"] != found["bfloat16"]
    change = np.subtract(found["bfloat16"], found["float32"])
    assert len(change) == 28
    assert change.mean() > -0.05
    assert np.abs(change).max() < 0.5


# Wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--clean", "CLEAN", "--benchmark", "other"],
            "`benchmark` must be one of synthetic7, composites2, composites3",
        ),
        (
            ["--clean", "CLEAN", "--output", "results.txt"],
            "`--output` must end in .json, got 'results.txt'; rename it",
        ),
        (["--clean", "EMPTY"], "`--clean`: `folders` must hold pictures"),
        (["--clean", "CLEAN", "--model", "EMPTY"], "`--model`: cannot load "),
        (["--clean", "CLEAN", "--model", "missing"], "does not exist"),
        (["--clean", "CLEAN", "--dtype", "float16"], "is not one of 'float32', 'bfloat16'"),
        ([], "test sets must be given, each of another name, got none; name them by `--corpus`, `--pairs`,"),
        (
            ["--pairs", "PAIRS", "--pairs", "PAIRS"],
            "test sets must be given, each of another name, got street, street",
        ),
        (["--pairs", "EMPTY"], "`--pairs`: folders of pairs must exist, got"),
        (["--degraded", "CLEAN"], "`--degraded` must come with `--clean`, got no folder; name that of the clean"),
        (
            ["--degraded", "CLEAN", "--clean", "EMPTY"],
            "pictures must be in pairs, got 2 that are not; remove or rename",
        ),
        (["--degraded", "EMPTY", "--clean", "EMPTY"], "there must be at least one pair, got none in"),
        (["--corpus", "lola", "EMPTY"], "`names` must be corpora ("),
        (["--corpus", "lol", "EMPTY"], "`data_dir` must hold lol as published, got"),
        (
            ["--corpus", "cbsd68", "CLEAN"],
            "`names` must give cbsd68 a recipe, because its pictures are clean, got 'cbsd68'",
        ),
        (["--corpus", "cbsd68/fog", "CLEAN"], "`names` must give recipes that exist (noise_sigma15, "),
        (
            ["--corpus", "lol/noise_mid", "PAIRS"],
            "`names` must give lol no recipe, because its pictures are degraded, got",
        ),
        (
            ["--pairs", "PAIRS", "--lpips", "squeeze", "missing"],
            "`--lpips`: `backbone` must be an existing safetensors",
        ),
        (
            ["--pairs", "PAIRS", "--lpips", "resnet", "missing"],
            "`network` must be one of squeeze, alex, vgg, got 'resnet'",
        ),
        (
            ["--pairs", "PAIRS", "--spandrel", "gamma.pth"],
            "methods must have names of their own, got gamma twice; rename",
        ),
        (["--pairs", "PAIRS", "--spandrel", "model.pt"], "`--spandrel`: `path` must end in .safetensors or .pth, got"),
    ],
)
def test_wrong_options_end_with_a_message(options, message, model, clean, street, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "CLEAN": clean, "PAIRS": street}
    result = run(model, tmp_path / "results.json", *(places.get(option, option) for option in options))
    assert result.exit_code == 2
    assert message in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}


def break_model(folder, how):
    """Damage a model's folder."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    settings = json.loads(config.read_text())
    if how == "no configuration":
        config.unlink()
    elif how == "configuration is no JSON":
        config.write_text("{")
    elif how == "configuration is a list":
        config.write_text("[1]")
    elif how == "another model":
        config.write_text(json.dumps(settings | {"model_type": "bert"}))
    elif how == "impossible size":
        config.write_text(json.dumps(settings | {"dim": -1}))
    elif how == "size of another type":
        config.write_text(json.dumps(settings | {"dim": "wide"}))
    elif how == "other size":
        config.write_text(json.dumps(settings | {"dim": 16}))
    elif how == "no weights":
        weights.unlink()
    elif how == "empty weights":
        weights.write_bytes(b"")
    elif how == "torn weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "weights are text":
        weights.write_text("weights")
    elif how == "weights are a folder":
        weights.unlink()
        weights.mkdir()
    elif how == "weights of others":
        save_file({"a": torch.zeros(1)}, weights, {"format": "pt"})
    elif how == "processor is no JSON":
        (folder / "preprocessor_config.json").write_text("{")


@pytest.mark.parametrize(
    "how",
    [
        *("no configuration", "configuration is no JSON", "configuration is a list", "another model"),
        *("impossible size", "size of another type", "other size", "no weights", "empty weights", "torn weights"),
        *("weights are text", "weights are a folder", "weights of others", "processor is no JSON"),
    ],
)
def test_broken_models_end_with_a_message(how, model, street, tmp_path):
    break_model(shutil.copytree(model, tmp_path / "model"), how)
    result = run(tmp_path / "model", tmp_path / "r.json", "--pairs", street)
    assert result.exit_code == 2, result.output
    assert "`--model`: cannot load" in " ".join(result.stderr.split())
    assert isinstance(result.exception, SystemExit)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_extractor_alone_is_refused(model, clean, tmp_path):
    DPMambaIRModel.from_pretrained(model).extractor.save_pretrained(tmp_path / "extractor")
    DPMambaIRImageProcessor().save_pretrained(tmp_path / "extractor")
    result = run(tmp_path / "extractor", tmp_path / "results.json", "--clean", clean)
    assert result.exit_code == 2
    assert not (tmp_path / "results.json").exists()


def test_identical_pictures_are_written_as_null_and_gain_nothing(model, street, tmp_path):
    options = ["--degraded", street / "clean", "--clean", street / "clean"]
    results = measure(model, tmp_path / "r.json", *options)
    scores = results["sets"][0]["scores"]
    assert scores["degraded"]["psnr"] is None
    assert scores["random-restorer"]["psnr_gains"]["lowest"] is None
    assert scores["random-restorer"]["psnr_gains"]["worse"] == 3
    assert "infinite/1.000" in (tmp_path / "r.md").read_text()
    assert math.isinf(read_rows(tmp_path / "r.json", "degraded")[0]["psnr"])


def test_failed_writing_leaves_the_old_summary_and_what_was_measured(model, street, tmp_path, monkeypatch):
    (tmp_path / "r.json").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_accelerate, "to_latex", lambda results: 1 / 0)
        assert isinstance(run(model, tmp_path / "r.json", "--pairs", street).exception, ZeroDivisionError)
    assert (tmp_path / "r.json").read_text() == "old"
    interrupt_after(monkeypatch, 0)
    measure(model, tmp_path / "r.json", "--pairs", street)


@pytest.mark.ci
@pytest.mark.slow
def test_model_of_class_labels_is_told_what_each_set_suffers(clean, street, tmp_path):
    model = save_model(tmp_path / "labelled", 0, embedding_source="class_label")
    measured = measure(model, tmp_path / "r.json", "--clean", clean)
    assert [each["name"] for each in measured["sets"]] == list(KINDS)
    with torch.no_grad():
        restorer = DPMambaIRModel.from_pretrained(model)
        restorer.class_embedding.weight.copy_(restorer.class_embedding.weight[[0] * len(KINDS)])
    restorer.save_pretrained(tmp_path / "blind")
    DPMambaIRImageProcessor().save_pretrained(tmp_path / "blind")
    blind = measure(tmp_path / "blind", tmp_path / "b.json", "--clean", clean)
    pairs = zip(measured["sets"], blind["sets"], strict=True)
    same = [one["scores"]["labelled"]["psnr"] == other["scores"]["blind"]["psnr"] for one, other in pairs]
    assert same == [True] + [False] * (len(KINDS) - 1)
    refused = run(model, tmp_path / "p.json", "--pairs", street)
    assert refused.exit_code == 2
    text = " ".join(refused.stderr.replace("│", " ").split())
    assert "`task` must be one of haze, rain, snow, low_light, blur, jpeg, noise for a model of class labels" in text
