"""What becomes of clean pictures and of JPEG files: what is measured, and its tables."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageChops
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from benchmarks import harm
from benchmarks.harm import app, measure_clean, measure_pairs
from tests.benchmarks.rows import markdown_rows

CLEAN = {"a.png": data.astronaut()[:48, :56], "b.png": data.coffee()[:48, :48]}


def save(folder, pictures):
    folder.mkdir(parents=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / name)
    return folder


def redden(picture, strength=1):
    """Stands for a model: raises red by 3 levels."""
    return ImageChops.add(picture, Image.new("RGB", picture.size, (round(3 * strength), 0, 0)))


def reddened(pixels):
    return np.asarray(redden(Image.fromarray(pixels)))


def test_clean_pictures_are_compared_with_themselves(tmp_path):
    found = measure_clean(redden, save(tmp_path / "clean", CLEAN))
    expected = [peak_signal_noise_ratio(pixels, reddened(pixels)) for pixels in CLEAN.values()]
    assert (found["folder"], found["pictures"], found["tint"], found["changed"]) == ("clean", 2, 3, 0)
    assert (found["psnr"], found["lowest"]) == pytest.approx((np.mean(expected), min(expected)))
    assert found["below"] == 0


def test_clean_pictures_that_were_mistaken_for_degraded_ones_are_counted(tmp_path):
    # 4 levels are 36.1 dB, 8 levels 30.1 dB: 20 lg (255 / 8).
    grey = {"a.png": np.full((48, 56, 3), 100, np.uint8), "b.png": np.full((48, 56, 3), 200, np.uint8)}
    found = measure_clean(
        lambda picture, strength=1: picture.point(lambda level: level + level // 25), save(tmp_path / "clean", grey)
    )
    assert (found["psnr"], found["below"]) == (pytest.approx(np.mean([36.09, 30.07]), abs=0.01), 1)


def test_a_model_that_ignores_strength_is_found_out(tmp_path):
    found = measure_clean(lambda picture, strength=1: redden(picture), save(tmp_path / "clean", CLEAN), limit=1)
    assert (found["pictures"], found["changed"]) == (1, 1)


def test_pairs_are_restored_as_they_are_and_from_jpeg_files(tmp_path):
    degraded = {name: pixels // 2 for name, pixels in CLEAN.items()}
    save(tmp_path / "set/degraded", degraded)
    save(tmp_path / "set/clean", CLEAN)
    found = measure_pairs(redden, tmp_path / "set")
    assert (found["folder"], found["pairs"]) == ("set", 2)

    def mean(change):
        return np.mean([peak_signal_noise_ratio(CLEAN[name], change(pixels)) for name, pixels in degraded.items()])

    def through_jpeg(pixels):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        return reddened(np.asarray(Image.open(file)))

    numbers = (found["degraded"], found["restored"], found["restored_from_jpeg"])
    assert numbers == pytest.approx((mean(np.asarray), mean(reddened), mean(through_jpeg)))


def test_command_writes_both_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(harm.Restorer, "from_pretrained", lambda *_, **__: lambda picture, strength=1: picture)
    clean = save(tmp_path / "set/clean", CLEAN)
    save(tmp_path / "set/degraded", CLEAN)
    (tmp_path / "small").mkdir()
    (tmp_path / "small/model.safetensors").write_bytes(b"weights")
    output = tmp_path / "harm.json"
    paths = {"--clean": clean, "--pairs": tmp_path / "set", "--model": tmp_path / "small", "--output": output}
    result = CliRunner().invoke(app, [str(each) for pair in paths.items() for each in pair])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    assert results["clean"] == [
        {"folder": "clean", "pictures": 2, "psnr": None, "lowest": None, "below": 0, "tint": 0, "changed": 0}
    ]
    rows = markdown_rows(result.output)
    assert ["`clean`", "2", "not finite", "not finite", "0", "0", "0"] in rows
