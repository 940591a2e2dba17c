"""What the restoring command reads and writes, with a model whose weights are random: it restores nothing."""

import dataclasses
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dpmambair import restore
from dpmambair.restore import find_pictures
from modeling_dpmambair import Restorer
from modeling_dpmambair.large_pictures_dpmambair import bytes_needed
from tests.restoring import ROOT, files_below, photograph, read, save


@pytest.fixture(scope="module")
def restorer(model_folder):
    return Restorer.from_pretrained(model_folder, "cpu", "float32")


def test_a_picture_is_restored_into_a_png(run, restorer):
    save("photo.jpg", quality=95)
    assert run("photo.jpg", "-o", "out", "--dtype", "float32", "--device", "cpu").exit_code == 0
    restored = read("out/photo.png")
    assert (restored.mode, restored.format) == ("RGB", "PNG")
    np.testing.assert_array_equal(restored, restorer("photo.jpg"))


def test_a_picture_beyond_the_memory_is_restored_in_tiles(run, restorer):
    degraded = photograph((16, 300))
    save("in/large.png", degraded)
    save("in/small.png")
    budget = bytes_needed(restorer.model, 16 * 160)
    assert run("in", "-o", "out", "--dtype", "float32", "--memory", budget / 2**30).exit_code == 0
    steps = []
    short = dataclasses.replace(restorer, memory_budget=budget)
    expected = short(degraded, progress=lambda *step: steps.append(step))
    assert len(steps) > 2
    np.testing.assert_array_equal(read("out/large.png"), expected)
    assert files_below("out") == ["large.png", "small.png"]


def test_a_memory_too_short_for_tiles_fails_the_picture(run):
    save("photo.png")
    result = run("photo.png", "-o", "out", "--memory", "0")
    assert (result.exit_code, result.stderr.startswith("photo.png: `memory_budget` must suffice for tiles")) == (
        1,
        True,
    )


def test_a_bar_counts_the_tiles_of_a_picture_and_hides_that_of_a_whole_one(capsys, monkeypatch):
    bars = []

    class Bar(restore.tqdm):
        def __init__(self, **options):
            bars.append(self)
            super().__init__(**options | {"disable": False})

    monkeypatch.setattr(restore, "tqdm", Bar)
    with restore.show_tiles("a.png") as show:
        show(1, 1)
    assert bars == []
    with restore.show_tiles("a.png") as show:
        for done in (1, 2, 3):
            show(done, 3)
        assert (bars[0].n, bars[0].total, bars[0].desc) == (3, 3, "a.png")


def test_folders_are_searched_in_depth_and_keep_their_structure(run):
    for name in ("album/a.jpg", "album/deep/er/b.PNG", "album/deep/c.bmp"):
        save(f"in/{name}")
    Path("in/notes.txt").write_text("not a picture, and not named like one")
    save("in/.trash/hidden.png")
    result = run("in", "-o", "out")
    assert files_below("out") == ["album/a.png", "album/deep/c.png", "album/deep/er/b.png"]
    assert result.stdout == "restored 3 of 3 pictures into out\n"
    assert result.stderr == ""
    assert result.exit_code == 0


def test_an_output_folder_inside_the_input_is_not_restored_again(run):
    save("a.png")
    assert run(".", "-o", "out").exit_code == 0
    assert run(".", "-o", "out").exit_code == 0
    assert files_below("out") == ["a.png"]


def test_compare_writes_degraded_and_restored_side_by_side(run):
    degraded = photograph((20, 12))
    save("in/photo.png", degraded)
    run("in", "-o", "out", "--compare")
    assert files_below("out") == ["photo.png", "photo_compare.png"]
    both, restored = (np.asarray(read(f"out/{name}")) for name in files_below("out")[::-1])
    np.testing.assert_array_equal(both, np.concatenate([np.asarray(degraded), restored], axis=1))


def test_grid_shows_every_restored_picture_once(run, monkeypatch):
    width, height = 160, 40
    monkeypatch.setattr(restore, "THUMBNAIL", (width, height))
    names = ["a", "b", "c", "d", "e" * 200]
    for seed, name in enumerate(names):
        save(f"in/{name}.png", photograph((width, height), seed=seed))
    Path("in/bad.png").write_text("no picture")
    assert run("in", "-o", "out", "--grid", "out/overview/grid.png").exit_code == 1
    grid = np.asarray(read("out/overview/grid.png"))
    band = 2 * height + 36 + 8
    assert grid.shape == (8 + 2 * band, 8 + 4 * (width + 8), 3)
    for row, name in ((0, "a"), (1, "e" * 200)):
        for place, folder in enumerate(("in", "out")):
            top = 8 + row * band + 32 + place * (height + 4)
            # The right halves of the pictures are free of text.
            shown = grid[top : top + height, 8 + width // 2 : 8 + width]
            np.testing.assert_array_equal(shown, np.asarray(read(f"{folder}/{name}.png"))[:, width // 2 :])
    assert (grid[8 + band :, 8 + width :] == 255).all()  # no sixth pair, and no caption beyond its cell


def test_grid_stops_growing_at_its_limit(run, monkeypatch):
    monkeypatch.setattr(restore, "GRID_LIMIT", 1)
    for name in ("a.png", "b.png"):
        save(f"in/{name}")
    assert run("in", "-o", "out", "--grid", "grid.png").exit_code == 0
    assert read("grid.png").width == 348 + 2 * 8
    assert files_below("out") == ["a.png", "b.png"]


def test_a_grid_that_cannot_be_written_is_one_failure(run):
    save("good.png")
    result = run("good.png", "-o", "out", "--grid", "grid.unknown")
    assert result.exit_code == 1
    assert result.stderr == "grid.unknown: unknown file extension: .unknown\n"
    assert files_below(".") == ["good.png", "out/good.png"]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_kept_as_it_is(run, mode):
    degraded = photograph(mode=mode)
    save("photo.png", degraded)
    run("photo.png", "-o", "out", "--compare")
    restored = read("out/photo.png")
    assert restored.mode == mode
    np.testing.assert_array_equal(restored.getchannel("A"), degraded.getchannel("A"))
    assert read("out/photo_compare.png").size == (48, 16)


def test_exif_orientation_is_applied(run):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    save("photo.jpg", photograph((24, 16)), exif=exif, quality=95)
    run("photo.jpg", "-o", "out")
    assert read("out/photo.png").size == (16, 24)
    assert read("out/photo.png").getexif() == {0x0112: 1}


def test_the_colour_profile_of_rgb_is_kept_and_of_grey_dropped(run):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save("colour.png", photograph(), icc_profile=profile)
    save("grey.png", photograph(mode="L"), icc_profile=profile)
    run("colour.png", "grey.png", "-o", "out")
    assert read("out/colour.png").info["icc_profile"] == profile
    assert "icc_profile" not in read("out/grey.png").info


def test_help_needs_no_torch():
    code = (
        "import sys, dpmambair.restore\n"
        "print(sorted({'torch', 'transformers', 'modeling_dpmambair'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_console_script_is_this_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = scripts["dpmambair-restore"].split(":")
    assert getattr(import_module(module), name) is restore.main


def test_the_module_runs_and_its_status_is_the_process_status(model_folder, tmp_path):
    save(tmp_path / "photo.png")
    arguments = ["photo.png", "gone.png", "-o", "out", "--model", model_folder]
    command = [sys.executable, "-m", "dpmambair.restore", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == "restored 1 of 2 pictures into out\n"
    assert result.stderr == "gone.png: No such file or directory\n"
    assert files_below(tmp_path) == ["out/photo.png", "photo.png"]


def test_inputs_are_listed_sorted_and_by_their_place(tmp_path):
    for name in ("b.png", "a.png", "c/a.png"):
        save(tmp_path / "in" / name)
    problems = restore.Problems()
    pictures = find_pictures([tmp_path / "in", Path("lone.jpeg")], Path("out"), problems)
    assert [picture.target.as_posix() for picture in pictures] == [
        "out/a.png",
        "out/b.png",
        "out/c/a.png",
        "out/lone.png",
    ]
    assert [picture.caption for picture in pictures] == ["a", "b", "c/a", "lone"]
