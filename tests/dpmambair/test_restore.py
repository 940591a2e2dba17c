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
from transformers import pipeline

from dpmambair import __version__, batch, overview, restore
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import Restorer
from modeling_dpmambair.large_pictures_dpmambair import bytes_needed
from tests.restoring import ROOT, files_below, photograph, pictures_below, read, records_below, save

LIGHT = ROOT / "checkpoints" / "dpmambair-light"


@pytest.fixture(scope="module")
def restorer(model_folder):
    return Restorer.from_pretrained(model_folder, "cpu", "float32")


def test_a_picture_is_restored_as_from_python(run, restorer):
    save("photo.png")
    assert run("photo.png", "-o", "out", "--dtype", "float32", "--device", "cpu").exit_code == 0
    restored = read("out/photo.png")
    assert (restored.mode, restored.format) == ("RGB", "PNG")
    np.testing.assert_array_equal(restored, restorer("photo.png"))


@pytest.mark.parametrize(
    ("given", "control"),
    [
        (("--only", "haze,noise"), {"only": ["haze", "noise"]}),
        (("--keep", "snow, rain"), {"keep": ["snow", "rain"]}),
        (("--self-ensemble",), {"self_ensemble": True}),
    ],
)
def test_control_is_the_restorers(run, given, control):
    degraded = save("photo.png")
    result = run("photo.png", "-o", "out", "--dtype", "float32", "--report", *given, model=LIGHT)
    assert (result.exit_code, result.stderr) == (0, "")
    restorer = Restorer.from_pretrained(LIGHT, dtype="float32")
    expected = restorer.controlled(**control)(degraded)
    np.testing.assert_array_equal(read("out/photo.png"), expected)
    assert not np.array_equal(expected, restorer(degraded))


def test_strength_scales_the_correction(run):
    degraded = photograph()
    save("photo.png", degraded)
    run("photo.png", "-o", "none", "--strength", 0)
    np.testing.assert_array_equal(read("none/photo.png"), degraded)
    run("photo.png", "-o", "once")
    assert (np.asarray(read("once/photo.png")) != np.asarray(degraded)).any()


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
    assert pictures_below("out") == ["large.png", "small.png"]


def test_a_memory_too_short_for_tiles_fails_the_picture(run):
    save("photo.png")
    result = run("photo.png", "-o", "out", "--memory", "0")
    assert (result.exit_code, result.stderr.startswith("photo.png: `memory_budget` must suffice for tiles")) == (
        1,
        True,
    )


def test_a_bar_counts_the_tiles_of_a_picture_and_hides_that_of_a_whole_one(monkeypatch):
    bars = []

    class Bar(batch.tqdm):
        def __init__(self, **options):
            bars.append(self)
            super().__init__(**options | {"disable": False})

    monkeypatch.setattr(batch, "tqdm", Bar)
    with batch.show_tiles("a\x1b.png") as show:
        show(1, 1)
    assert bars == []
    with batch.show_tiles("a\x1b.png") as show:
        for done in (1, 2, 3):
            show(done, 3)
        assert (bars[0].n, bars[0].total, bars[0].desc) == (3, 3, "a\\x1b.png")


def test_folders_are_searched_in_depth_and_keep_their_structure(run):
    for name in ("album/a.jpg", "album/deep/er/b.PNG", "album/deep/c.webp"):
        save(f"in/{name}")
    result = run("in", "-o", "out")
    assert pictures_below("out") == ["album/a.jpg", "album/deep/c.webp", "album/deep/er/b.PNG"]
    assert result.stdout == "restored 3 of 3 pictures into out\n"
    assert result.stderr == ""
    assert result.exit_code == 0


def test_an_output_folder_inside_the_input_is_not_restored_again(run):
    save("a.png")
    assert run(".", "-o", "out").exit_code == 0
    assert run(".", "-o", "out").exit_code == 0
    assert pictures_below("out") == ["a.png"]


def test_pictures_of_one_size_can_be_restored_together(run, monkeypatch):
    restore_one, sizes = Restorer.restore, []

    def count(self, pixel_values, *arguments):
        sizes.append(len(pixel_values))
        return restore_one(self, pixel_values, *arguments)

    monkeypatch.setattr(Restorer, "restore", count)
    for seed, size in enumerate([(24, 16)] * 3 + [(16, 24), (24, 16)]):
        save(f"in/{seed}.png", photograph(size, seed=seed))
    Path("in/2.png").write_text("no picture")
    assert run("in", "-o", "alone", "--dtype", "float32").exit_code == 1
    assert run("in", "-o", "together", "--dtype", "float32", "--batch-size", 3).exit_code == 1
    assert sizes == [1, 1, 1, 1, 2, 1, 1]
    assert pictures_below("alone") == pictures_below("together") == ["0.png", "1.png", "3.png", "4.png"]
    for name in pictures_below("alone"):
        np.testing.assert_allclose(read(f"together/{name}"), np.int16(read(f"alone/{name}")), atol=1)


def test_compare_writes_degraded_and_restored_side_by_side(run):
    degraded = photograph((20, 12))
    save("in/photo.png", degraded)
    run("in", "-o", "out", "--compare")
    assert pictures_below("out") == ["photo.png", "photo_compare.png"]
    both, restored = (np.asarray(read(f"out/{name}")) for name in ("photo_compare.png", "photo.png"))
    np.testing.assert_array_equal(both, np.concatenate([np.asarray(degraded), restored], axis=1))


def test_grid_shows_every_restored_picture_once(run, monkeypatch):
    width, height = 160, 40
    monkeypatch.setattr(overview, "THUMBNAIL", (width, height))
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


def test_grid_shows_the_others_where_a_picture_cannot_be_shown(run):
    for name in ("a.png", "b.png"):
        save(f"in/{name}")
    save("out/a.png")
    Path("out/b.png").write_text("no picture")
    result = run("in", "-o", "out", "--skip-existing", "--grid", "grid.png")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("out/b.png: `image` must be a picture")
    assert read("grid.png").width == 348 + 2 * 8


def test_grid_stops_growing_at_its_limit_and_says_so(run, monkeypatch):
    monkeypatch.setattr(batch, "GRID_LIMIT", 1)
    for name in ("a.png", "b.png"):
        save(f"in/{name}")
    result = run("in", "-o", "out", "--grid", "grid.png")
    assert (result.exit_code, result.stderr) == (0, "note: grid.png shows the first 1 of 2 pictures\n")
    assert read("grid.png").width == 348 + 2 * 8
    assert pictures_below("out") == ["a.png", "b.png"]


def test_grid_of_a_run_that_went_on_is_that_of_one_run(run):
    for seed, name in enumerate(("a", "b", "c")):
        save(f"in/{name}.png", photograph(seed=seed))
    run("in", "-o", "whole", "--grid", "whole.png")
    run("in/b.png", "-o", "parts")
    parts = Path("parts/manifest.jsonl")
    assert run("in/b.png", "in/c.png", "-o", "parts", "--grid", "parts.png").exit_code == 0
    assert '"in/c.png"' in parts.read_text()
    assert run("in", "-o", "parts", "--grid", "parts.png").exit_code == 0
    np.testing.assert_array_equal(read("parts.png"), read("whole.png"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_kept_as_it_is(run, mode):
    degraded = photograph(mode=mode)
    save("photo.png", degraded)
    run("photo.png", "-o", "out", "--compare")
    restored = read("out/photo.png")
    assert restored.mode == mode
    np.testing.assert_array_equal(restored.getchannel("A"), degraded.getchannel("A"))
    assert read("out/photo_compare.png").size == (48, 16)


def test_metadata_is_kept_or_stripped_and_the_picture_upright(run):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    exif[0x010F] = "Maker"
    save("photo.jpg", photograph((24, 16)), exif=exif, quality=95)
    run("photo.jpg", "-o", "kept")
    run("photo.jpg", "-o", "bare", "--strip-metadata")
    kept, bare = read("kept/photo.jpg"), read("bare/photo.jpg")
    assert kept.size == bare.size == (16, 24)
    assert kept.getexif()[0x010F] == "Maker"
    assert kept.getexif().get(0x0112, 1) == 1
    assert not bare.getexif()


def test_the_colour_profile_is_kept(run):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save("colour.png", photograph(), icc_profile=profile)
    run("colour.png", "-o", "out", "--strip-metadata")
    assert read("out/colour.png").info["icc_profile"] == profile


def test_a_report_tells_what_the_pipeline_tells(run):
    detect = pipeline("image-restoration", model=str(SHIPPED), device="cpu", dtype="float32")
    names = ("low_light.png", "noise.png")
    sources = [str(ROOT / "examples" / name) for name in names]
    result = run(*sources, "-o", "out", "--report", "--dtype", "float32", model=SHIPPED)
    assert result.stdout.splitlines()[0].startswith(f"{sources[0]}: low_light ")
    assert result.stdout.splitlines()[1].startswith(f"{sources[1]}: noise ")
    for record, source in zip(records_below("out"), sources, strict=True):
        assert record["input"] == source
        expected = detect(source, return_description=True)["degradations"]
        for kind, values in expected.items():
            assert record["detected"][kind] == pytest.approx(values, abs=1e-3)


def test_help_and_version_need_no_torch():
    code = (
        "import sys, dpmambair.restore\n"
        "for argument in ('--help', '--version'):\n"
        "    try:\n"
        "        dpmambair.restore.main([argument])\n"
        "    except SystemExit as end:\n"
        "        assert not end.code\n"
        "print(sorted({'torch', 'transformers', 'modeling_dpmambair'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--self-ensemble" in result.stdout
    assert result.stdout.splitlines()[-2:] == [f"dpmambair {__version__}", "[]"]


def test_version_is_that_of_the_package(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"dpmambair {__version__}\n")


def test_the_console_script_is_this_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = scripts["dpmambair-restore"].split(":")
    assert getattr(import_module(module), name) is restore.main


@pytest.mark.ci
@pytest.mark.slow
def test_the_module_runs_and_its_status_is_the_process_status(model_folder, tmp_path):
    save(tmp_path / "photo.png")
    arguments = ["photo.png", "gone.png", "-o", "out", "--model", model_folder]
    command = [sys.executable, "-m", "dpmambair.restore", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == "restored 1 of 2 pictures into out\n"
    assert result.stderr == "gone.png: No such file or directory\n"
    assert files_below(tmp_path) == ["out/manifest.jsonl", "out/photo.png", "photo.png"]
