"""The commands that publish, check and draw the data."""

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from typer.testing import CliRunner

from dataset_scripts import KINDS, load_restoration_dataset
from dataset_scripts.__main__ import app, draw_kinds, draw_pairs

from .conftest import draw_picture


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of pairs of which one clean picture is missing."""
    root = tmp_path_factory.mktemp("corpus")
    for folder, numbers in (("degraded", range(3)), ("clean", range(2))):
        (root / folder).mkdir()
        for number in numbers:
            Image.fromarray(draw_picture(20, 30, number)).save(root / folder / f"{number}.png")
    return root


# Build


@pytest.mark.parametrize("form", ["parquet", "imagefolder"])
def test_build_writes_pairs_that_load_dataset_reads(folder, tmp_path, form):
    result = run("build", "jpeg_q20", folder, "-o", tmp_path / "built", "--format", form, "--seed", 4)
    assert result.exit_code == 0, result.output
    assert f"9 pairs in {tmp_path / 'built'}" in result.output
    arguments = [str(tmp_path / "built")] if form == "parquet" else ["imagefolder", None, str(tmp_path / "built")]
    built = load_dataset(*arguments, split="train", cache_dir=str(tmp_path / "cache"))
    expected = load_restoration_dataset("jpeg_q20", folder, seed=4, cache_dir=tmp_path / "cache")
    assert built["record"][:] == expected["record"][:]
    np.testing.assert_array_equal(np.asarray(built[1]["degraded"]), np.asarray(expected[1]["degraded"]))


# Verify


def test_verify_passes_a_sound_folder(folder):
    result = run("verify", "noise", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("all files can be used\n")


def test_verify_lists_what_cannot_be_used(corpus, folder, tmp_path):
    result = run("verify", "paired_folders", corpus)
    assert result.exit_code == 1
    assert "degraded/2.png" in result.stdout
    (tmp_path / "text.jpg").write_text("not a picture")
    result = run("verify", "noise", tmp_path)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"1 unreadable:\n  {tmp_path / 'text.jpg'}: cannot identify image file")


# Preview


@pytest.mark.parametrize("options", [("--pairs", 2), ("--severity", 0.5)])
def test_preview_writes_one_picture_and_nothing_else(folder, tmp_path, options):
    result = run("preview", "noise", folder, "-o", tmp_path / "preview.png", *options)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]
    with Image.open(tmp_path / "preview.png") as picture:
        picture.load()
        assert picture.width > 900


def test_grid_has_a_degraded_and_a_clean_picture_of_every_pair(folder, tmp_path):
    pairs = list(load_restoration_dataset("haze_mid", folder, streaming=True, cache_dir=tmp_path).take(2))
    axes = draw_pairs(pairs).axes
    assert [panel.get_title() for panel in axes] == ["haze, severity 0.50", "a.png", "haze, severity 0.50", "b.jpg"]
    for panel, column in zip(axes[:2], ("degraded", "clean"), strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), np.asarray(pairs[0][column]))


def test_grid_has_a_clean_picture_and_each_severity_for_every_kind(dataset):
    titles = [axes.get_title() for axes in draw_kinds(dataset, KINDS, (0.2, 1.0), seed=0).axes]
    assert titles[:6] == [
        "clean",
        "haze, severity 0.2",
        "haze, severity 1",
        "clean",
        "rain, severity 0.2",
        "rain, severity 1",
    ]
    assert len(titles) == 21


def test_clean_pictures_alone_make_no_grid(corpus):
    with pytest.raises(ValueError, match="`pairs` must have degraded pictures, got none; give a recipe"):
        draw_pairs([])


# Failures


@pytest.mark.parametrize(
    ("command", "name", "source", "output", "options", "message"),
    [
        ("preview", "noise", "missing", "a.png", (), "error: `folders` must exist, got "),
        ("preview", "noise", ".", "missing/a.png", (), "error: `output` must lie in an existing folder, got "),
        ("preview", "noise", ".", "a.xyz", (), "error: Format 'xyz' is not supported"),
        ("preview", "noise", ".", "a.png", ("--severity", 2), "error: `severity` must be in [0, 1], got 2.0"),
        ("preview", "lol", ".", "a.png", ("--severity", 0.5), "error: `name` must be a recipe (noise_sigma15, "),
        ("preview", "fog", ".", "a.png", (), "error: `name` must be a corpus (reside6k, "),
        ("build", "fog", ".", "a", (), "error: `name` must be a corpus (reside6k, "),
        ("build", "noise", ".", ".", (), "error: `output` must not exist yet, got "),
    ],
)
def test_failure_is_one_line_and_leaves_nothing(folder, tmp_path, command, name, source, output, options, message):
    result = run(command, name, folder / source, "-o", tmp_path / output, *options)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(message)
    assert not list(tmp_path.iterdir())


def test_verify_of_an_unknown_name_is_one_line(folder):
    result = run("verify", "fog", folder)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: `name` must be a corpus (reside6k, ")
