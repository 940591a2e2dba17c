import gc
import os
import shutil
import subprocess
import sys
import weakref
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from restoration_page import restorer as module
from restoration_page.pictures import LIFETIME, MAX_MEGAPIXELS, UnusablePictureError
from restoration_page.restorer import Control, Restorer
from safetensors.torch import load_file, save_file
from transformers import pipeline

from modeling_dpmambair import DPMambaIRImageProcessor, DPMambaIRModel, ImageRestorationPipeline
from tests.demo.conftest import KINDS, MARKER, ROOT, forgetful
from tests.modeling_dpmambair.models import small_model
from tests.odd_pictures import rgb_profile
from tests.restoring import photograph, read, save


@pytest.fixture
def picture(tmp_path):
    return save(tmp_path / "degraded.png")


@pytest.fixture
def runs(monkeypatch):
    """Inputs of every run of the network, in order."""
    found, forward = [], ImageRestorationPipeline.forward

    def count(self, inputs, **options):
        found.append(inputs)
        return forward(self, inputs, **options)

    monkeypatch.setattr(ImageRestorationPipeline, "forward", count)
    return found


# Strength


@pytest.mark.parametrize("strength", [0, 0.35, 1, 1.5])
def test_any_strength_gives_what_the_pipeline_gives(pipe, restorer, picture, strength):
    expected = pipe(picture, strength=strength)
    restored = restorer.at_strength(restorer.restore(picture), strength).image
    assert (restored.mode, restored.size) == ("RGB", expected.size)
    difference = np.abs(np.subtract(restored, expected, dtype=int))
    # Between 0 and 1 the two multiply in another order.
    assert difference.max() <= (strength not in (0, 1))
    if strength:
        assert np.abs(np.subtract(restored, photograph(), dtype=int)).max() > 5


def test_network_runs_once_for_all_strengths(restorer, picture, tmp_path, runs):
    strengths = [np.asarray(restorer.at_strength(restorer.restore(picture), each).image) for each in (0, 0.5, 1, 1.5)]
    assert len(runs) == 1
    assert len({each.tobytes() for each in strengths}) == 4
    restorer.restore(shutil.copy(picture, tmp_path / "same picture, other name.png"))
    assert len(runs) == 1
    restorer.restore(save(tmp_path / "other.png", photograph(seed=1)))
    assert len(runs) == 2


def test_memory_holds_the_last_pictures_only(loaded, tmp_path, runs, monkeypatch):
    paths = [save(tmp_path / f"{seed}.png", photograph(seed=seed)) for seed in range(3)]
    width, height = photograph().size
    # Each takes four bytes a level before, and four after.
    monkeypatch.setattr(module, "MEMORY", 2 * width * height * 3 * (4 + 4))
    restorer = forgetful(loaded)
    for path in (*paths, paths[1], paths[2]):
        restorer.restore(path)
    assert len(runs) == 3
    restorer.restore(paths[0])
    assert len(runs) == 4


def test_pictures_are_forgotten_when_their_files_are_deleted(loaded, picture, runs):
    now = 0
    restorer = forgetful(loaded, clock=lambda: now)
    kept = weakref.ref(restorer.restore(picture))
    now = LIFETIME - 1
    restorer.forget()
    restorer.restore(picture)  # a look at it does not keep it longer
    assert len(runs) == 1
    now = LIFETIME
    assert kept() is not None
    restorer.forget()
    gc.collect()
    assert kept() is None
    restorer.restore(picture)
    assert len(runs) == 2


def test_every_picture_that_the_page_takes_fits_the_memory():
    assert module.MEMORY >= 2 * 1e6 * MAX_MEGAPIXELS * (3 * (4 + 4) + 4)


def test_degraded_picture_is_upright(restorer, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", photograph((24, 16)), exif=exif)
    restoration = restorer.restore(path)
    assert restoration.degraded.size == restorer.at_strength(restoration, 1).image.size == (16, 24)


def test_colour_profile_goes_with_the_result(restorer, tmp_path):
    path = save(tmp_path / "profiled.png", photograph(), icc_profile=rgb_profile())
    assert restorer.at_strength(restorer.restore(path), 1).image.info["icc_profile"] == rgb_profile()


def test_depth_transparency_and_grey_go_with_the_result(restorer, tmp_path):
    levels = np.random.default_rng(0).integers(0, 65536, (16, 24, 2), np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(imagecodecs.png_encode(levels))
    restored = restorer.at_strength(restorer.restore(path), 0.5)
    restorer.write(restored, tmp_path / "restored.png")
    found = imagecodecs.png_decode((tmp_path / "restored.png").read_bytes())
    assert (found.dtype, found.shape) == (np.uint16, levels.shape)
    np.testing.assert_array_equal(found[..., 1], levels[..., 1])
    assert len(np.unique(found[..., 0] % 257)) > 100  # no multiples of the levels of 8 bits
    assert not np.array_equal(found[..., 0], levels[..., 0])


@pytest.mark.parametrize("control", [Control(("haze", "noise")), Control(self_ensemble=True)])
def test_control_is_the_pipelines_and_each_is_remembered(pipe, restorer, picture, runs, control):
    restorer.restore(picture)
    found = [restorer.at_strength(restorer.restore(picture, control), 1).image for _ in range(2)]
    assert len(runs) == 2
    expected = pipe(picture, **control._asdict())
    assert all(np.array_equal(each, expected) for each in found)
    assert not np.array_equal(expected, restorer.at_strength(restorer.restore(picture), 1).image)


def test_a_model_that_cannot_be_steered_offers_no_kinds(restorer, tmp_path):
    assert restorer.steers == tuple(KINDS)
    torch.manual_seed(0)
    small_model({"degradations": KINDS}, has_description=True).save_pretrained(tmp_path)
    DPMambaIRImageProcessor().save_pretrained(tmp_path)
    assert Restorer.from_source(str(tmp_path)).steers == ()


def test_progress_counts_tiles(restorer, picture):
    heard = []
    restorer.restore(picture, progress=lambda *counts: heard.append(counts))
    assert heard == [(1, 1)]


def test_unusable_picture_is_refused_and_not_remembered(restorer, tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("no picture")
    for _ in range(2):
        with pytest.raises(UnusablePictureError, match="not a picture"):
            restorer.restore(path)


# Description


def test_description_is_the_pipelines(pipe, restorer, picture):
    expected = pipe(picture, return_description=True)["degradations"]
    found = restorer.restore(picture).degradations
    assert list(found) == KINDS
    for kind in KINDS:
        assert found[kind] == pytest.approx(expected[kind], abs=1e-6)
    assert restorer.describes


def test_model_that_cannot_describe_restores_all_the_same(picture, tmp_path):
    torch.manual_seed(0)
    small_model().save_pretrained(tmp_path)
    DPMambaIRImageProcessor().save_pretrained(tmp_path)
    restorer = Restorer.from_source(str(tmp_path))
    assert not restorer.describes
    assert restorer.restore(picture).degradations is None


# Loading


def test_model_is_named_after_its_folder(restorer):
    assert restorer.name == MARKER
    assert 0 < restorer.million_parameters < 1


def test_folder_without_weights_is_refused(folder, tmp_path):
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match=r"`DPMAMBAIR_MODEL` must be a trained restorer, got .*bare; give its folder"):
        Restorer.from_source(str(bare))


def test_missing_weights_are_refused_rather_than_drawn_at_random(folder, tmp_path):
    partial = shutil.copytree(folder, tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    lost = [name for name in weights if name.startswith("network.latent")]
    save_file({name: value for name, value in weights.items() if name not in lost}, partial / "model.safetensors")
    with pytest.raises(ValueError, match=rf"weights must be complete, got {len(lost)} missing in .*; give a trained"):
        Restorer.from_source(str(partial))


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [("owner/name", "owner/name", None), ("owner/name@v1", "owner/name", "v1")],
)
def test_repository_may_be_pinned_to_a_revision(monkeypatch, source, name, revision):
    asked, config = [], SimpleNamespace(custom_pipelines={module.TASK: {"impl": "its.Pipeline"}})

    def load(name, output_loading_info=False, **options):
        asked.append((name, options["revision"]))
        return (SimpleNamespace(config=config), {"missing_keys": set()}) if output_loading_info else None

    monkeypatch.setattr(module, "pipeline", lambda task, **options: None)
    monkeypatch.setattr(module.AutoModelForImageToImage, "from_pretrained", load)
    monkeypatch.setattr(module.AutoImageProcessor, "from_pretrained", load)
    monkeypatch.setattr(module, "get_class_from_dynamic_module", lambda impl, name, **options: load(name, **options))
    assert Restorer.from_source(source).name == name
    assert asked == [(name, revision)] * 3


def test_weights_are_read_once(folder, monkeypatch):
    loads, load = [], DPMambaIRModel.from_pretrained.__func__

    def count(kind, *arguments, **options):
        loads.append(arguments)
        return load(kind, *arguments, **options)

    monkeypatch.setattr(DPMambaIRModel, "from_pretrained", classmethod(count))
    Restorer.from_source(str(folder))
    assert len(loads) == 1


STRANGER = """
import sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "modeling_dpmambair":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
from restoration_page.restorer import Restorer

restorer = Restorer.from_source(sys.argv[1])
restorer.at_strength(restorer.restore(sys.argv[2]), 1).image.save(sys.argv[3])
"""


@pytest.mark.slow
def test_published_folder_is_enough_where_our_package_is_not(folder, restorer, picture, tmp_path):
    published, restored = tmp_path / "published", tmp_path / "restored.png"
    pipeline("image-restoration", model=str(folder)).save_pretrained(published)
    # As in a Space: the page's folder on the path, the repository not.
    subprocess.run(
        [sys.executable, "-c", STRANGER, published, picture, restored], cwd=tmp_path, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "demo"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    expected = restorer.at_strength(restorer.restore(picture), 1).image
    assert np.abs(np.subtract(read(restored), expected, dtype=int)).max() <= 1
