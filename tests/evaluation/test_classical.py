"""Classical restorations against definitions and libraries that others wrote, and on what each was made for."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from dataset_scripts import KINDS, UNSEEN, apply_degradations, sample_degradation
from evaluation import classical
from evaluation.classical import CLASSICAL, classical_for, guided_filter

CLEAN = data.astronaut()[:160, 140:332]
ROOT = Path(__file__).parents[2]


def degrade(kind, severity):
    drawn = sample_degradation(kind, severity, np.random.default_rng(2))
    degraded = apply_degradations(CLEAN.astype(np.float32) / 255, [drawn])
    return Image.fromarray(np.rint(degraded * 255).astype(np.uint8))


def find(name):
    return next(each for each in CLASSICAL if each.name == name)


def gain(name, degraded):
    part = (0, 0, 64, 64) if name == "BM3D" else (0, 0, *degraded.size)
    clean, degraded = Image.fromarray(CLEAN).crop(part), degraded.crop(part)
    before, after = (
        peak_signal_noise_ratio(np.asarray(clean), np.asarray(each)) for each in (degraded, find(name)(degraded))
    )
    return after - before


@pytest.mark.parametrize(
    ("name", "kind", "severity", "least"),
    [
        ("gamma", "low_light", 0.5, 5.0),
        ("CLAHE", "low_light", 0.5, 1.0),
        ("shifted JPEG", "jpeg", 0.5, 0.3),
        ("non-local means", "noise", 0.25, 4.0),
        pytest.param("BM3D", "noise", 0.25, 6.0, marks=pytest.mark.slow),
    ],
)
def test_method_gains_on_what_it_was_made_for(name, kind, severity, least):
    assert gain(name, degrade(kind, severity)) > least


def test_dark_channel_removes_haze_where_clear_air_is_dark():
    clear = CLEAN / 255 * np.where(np.indices(CLEAN.shape).sum(0) % 7 == 0, 0, 1)  # everywhere some value is black
    hazy = 0.5 * clear + 0.5 * 0.9
    restored = classical.remove_haze(hazy)
    assert np.abs(restored - clear).mean() < 0.3 * np.abs(hazy - clear).mean()


@pytest.mark.parametrize("name", ["Wiener", "Richardson-Lucy"])
def test_known_blur_is_undone(name):
    blurred = Image.fromarray(cv2.blur(CLEAN, (5, 5)))
    inside = np.s_[8:-8, 8:-8]
    before, after = (
        peak_signal_noise_ratio(CLEAN[inside], np.asarray(each)[inside]) for each in (blurred, find(name)(blurred))
    )
    assert after > before + 1


@pytest.mark.parametrize("name", ["median", "guided filter"])
def test_thin_bright_streaks_are_thinned(name):
    streaky = np.zeros((40, 40, 3), np.uint8)
    streaky[:, 20] = 200
    assert np.asarray(find(name)(Image.fromarray(streaky)))[20, 20].max() < 180


def test_guided_filter_is_the_mean_of_the_regressions_of_all_windows():
    rng = np.random.default_rng(0)
    guide, values, radius, epsilon = rng.random((12, 9)), rng.random((12, 9)), 2, 0.01
    padded = [np.pad(each, 2 * radius, mode="reflect") for each in (guide, values)]
    total = np.zeros_like(guide)
    for row, column in np.ndindex(guide.shape):
        for top, left in np.ndindex(2 * radius + 1, 2 * radius + 1):
            window = np.s_[row + top : row + top + 2 * radius + 1, column + left : column + left + 2 * radius + 1]
            x, y = (each[window].ravel() for each in padded)
            # Ridge regression: the slope alone is held down.
            slope = np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + epsilon)
            total[row, column] += slope * guide[row, column] + y.mean() - slope * x.mean()
    inside = np.s_[radius:-radius, radius:-radius]
    found = guided_filter(guide, values, radius, epsilon)
    np.testing.assert_allclose(found[inside], (total / (2 * radius + 1) ** 2)[inside], rtol=0, atol=1e-10)


@pytest.mark.parametrize("one", CLASSICAL, ids=lambda one: one.name)
@pytest.mark.parametrize("value", [0, 255])
def test_flat_pictures_of_any_size_come_back_whole(one, value):
    flat = Image.new("RGB", (19, 33), (value,) * 3)
    restored = one(flat)
    assert (restored.mode, restored.size) == ("RGB", flat.size)
    if one.tasks not in (("haze",), ("low_light",), ("blur",)):  # those cannot know that nothing was there
        assert np.abs(np.asarray(restored, int) - value).max() <= 3


# BM3D takes its time.
QUICK_FIRST = [
    pytest.param(one, marks=pytest.mark.slow if one.name == "BM3D" else (), id=one.name) for one in CLASSICAL
]


@pytest.mark.parametrize("one", QUICK_FIRST)
def test_restoration_is_the_same_again(one):
    noisy = degrade("noise", 0.2).crop((0, 0, 24, 20))
    assert one(noisy).tobytes() == one(noisy).tobytes()


def test_bm3d_takes_one_thread_since_several_differ_from_run_to_run(monkeypatch):
    threads = []
    monkeypatch.setattr("bm3d.bm3d_rgb", lambda noisy, sigma, profile: threads.append(profile.num_threads) or noisy)
    find("BM3D")(degrade("noise", 0.2).crop((0, 0, 24, 20)))
    assert threads == [1]


def test_noise_of_grey_pictures_is_removed_too():
    clean = Image.fromarray(CLEAN[:48, :48]).convert("L")
    noise = np.random.default_rng(0).normal(0, 25, (48, 48))
    noisy = Image.fromarray(np.clip(np.rint(np.asarray(clean) + noise), 0, 255).astype(np.uint8)).convert("RGB")
    restored = np.asarray(find("BM3D")(noisy))
    assert (restored == restored[..., :1]).all()
    before, after = (
        peak_signal_noise_ratio(np.asarray(clean), np.asarray(each)[..., 0]) for each in (noisy, restored)
    )
    assert after > before + 3


def test_every_kind_has_a_method_and_others_have_none():
    assert all(classical_for(kind) for kind in KINDS)
    assert not any(classical_for(task) for task in (*UNSEEN, "mixed", "haze+rain"))
    names = [one.name for one in CLASSICAL]
    assert len(set(names)) == len(names)


def test_missing_package_is_an_error_with_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bm3d", None)
    with pytest.raises(ImportError, match="`bm3d` must be installed for BM3D, got none; run pip install bm3d"):
        classical.match_blocks(np.zeros((16, 16, 3)))


def test_document_names_every_method_with_its_settings():
    text = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if re.match(r"\| \w", line)]
    for one in CLASSICAL:
        kinds = ", ".join(kind.replace("_", " ") for kind in one.tasks)
        assert [kinds, one.name, one.settings] in rows
