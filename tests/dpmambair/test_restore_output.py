"""Which files the restoring command writes: formats, names, and what there was before."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpmambair.settings import FORMATS
from dpmambair.shipped import SHIPPED
from tests.restoring import files_below, photograph, pictures_below, read, records_below, save


def test_a_picture_comes_back_in_its_own_format(run):
    suffixes = ["png", "jpg", "jpeg", "webp", "tif", "tiff", "avif", "gif", "bmp", "ppm", "jp2"]
    names = sorted(f"photo.{suffix}" for suffix in suffixes)
    for name in names:
        save(f"in/{name}")
    result = run("in", "-o", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    assert pictures_below("out") == names
    assert [read(f"out/{name}").format for name in names] == [read(f"in/{name}").format for name in names]


def test_a_format_that_is_not_written_becomes_png_and_that_is_told(run, monkeypatch):
    save("in/photo.webp")
    monkeypatch.delitem(Image.SAVE, "WEBP")
    result = run("in", "-o", "out")
    assert result.exit_code == 0
    assert result.stderr == "note: written as PNG, because this Pillow does not write their own format: .webp (1)\n"
    assert read("out/photo.png").format == "PNG"


def test_an_animation_comes_back_whole(run):
    frames = [photograph(seed=seed) for seed in range(3)]
    save("in/moving.webp", frames[0], save_all=True, append_images=frames[1:], duration=[50, 60, 70], lossless=True)
    save("in/still.webp", photograph((24, 48)))
    result = run("in", "-o", "out", "--compare", "--grid", "grid.png", "--report", "--batch-size", 2, model=SHIPPED)
    assert (result.exit_code, result.stderr) == (0, "")
    with Image.open("out/moving.webp") as moving:
        assert moving.n_frames == 3
    assert read("out/moving_compare.png").size == (48, 16)
    described = {record["output"] for record in records_below("out") if record.get("detected")}
    assert described == {"moving.webp", "still.webp"}


def test_what_a_format_does_not_hold_is_a_failure(run):
    save("in/alpha.png", photograph(mode="RGBA"))
    save("in/plain.png")
    result = run("in", "-o", "out", "--format", "jpeg")
    assert (result.exit_code, pictures_below("out")) == (1, ["plain.jpg"])
    assert result.stderr.startswith("in/alpha.png: `format` must hold transparency for this picture, got JPEG")


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_can_be_chosen(run, format):
    save("in/a.png")
    save("in/b.jpg")
    result = run("in", "-o", "out", "--format", format)
    assert (result.exit_code, result.stderr) == (0, "")
    name, suffix = FORMATS[format]
    assert pictures_below("out") == [f"a{suffix}", f"b{suffix}"]
    assert {read(f"out/{path}").format for path in pictures_below("out")} == {name}


def test_quality_decides_the_size_of_the_file(run):
    save("photo.jpg", photograph((96, 64)))
    for quality in (30, 95):
        run("photo.jpg", "-o", f"out{quality}", "--quality", quality)
    run("photo.jpg", "-o", "out")
    sizes = [Path(folder, "photo.jpg").stat().st_size for folder in ("out30", "out95", "out")]
    assert 2 * sizes[0] < sizes[1] == sizes[2]


def test_pictures_of_one_name_stay_apart(run):
    pictures = {
        name: save(name, photograph(seed=seed)) for seed, name in enumerate(("a/x.png", "b/x.png", "b/x.webp"))
    }
    result = run("a", "b", "-o", "out", "--format", "png", "--strength", 0)
    assert (result.exit_code, result.stderr) == (0, "")
    found = {"a/x.png": "x.png", "b/x.png": "x_2.png", "b/x.webp": "x.webp.png"}
    assert pictures_below("out") == sorted(found.values())
    for source, target in found.items():
        np.testing.assert_array_equal(read(f"out/{target}"), read(pictures[source]).convert("RGB"))


def test_an_existing_file_is_a_failure_unless_that_was_asked_for(run):
    save("in/a.png")
    save("in/b.png")
    kept = save("out/a.png", photograph((3, 3))).read_bytes()
    result = run("in", "-o", "out")
    assert result.exit_code == 1
    assert result.stderr == (
        "in/a.png: out/a.png exists; give --overwrite to replace it, or --skip-existing to leave it\n"
    )
    result = run("in", "-o", "out", "--skip-existing")
    assert (result.exit_code, result.stdout) == (0, "restored 0 of 2 pictures into out (1 done before, 1 skipped)\n")
    assert Path("out/a.png").read_bytes() == kept
    result = run("in", "-o", "out", "--overwrite")
    assert (result.exit_code, result.stdout) == (0, "restored 1 of 2 pictures into out (1 done before)\n")
    assert Path("out/a.png").read_bytes() != kept


@pytest.mark.parametrize("change", [("--strength", 0.5), ("--format", "png"), ("--dtype", "bfloat16")])
def test_other_settings_are_no_reason_to_leave_a_file(run, change):
    save("a.png")
    run("a.png", "-o", "out", "--dtype", "float32")
    result = run("a.png", "-o", "out", "--dtype", "float32", *change)
    assert (result.exit_code, result.stdout) == (1, "restored 0 of 1 pictures into out\n")
    assert run("a.png", "-o", "out", "--dtype", "float32", *change, "--overwrite").exit_code == 0


NAMES = [
    b"a b\tc\nd.png",
    b"\x1b[31mred\x1b[0m.png",
    b"-o.png",
    b"caf\xe9.png",
    "写真 😀.png".encode(),
    b"%s{0}$(x)`y`'\"\\.png",
    b"x" * 251 + b".png",
    b"x" * 255,
    "é".encode() * 127,
    b"..png",
    b"a.png.",
]


def test_any_legal_name_is_restored_with_any_option(run):
    for name in NAMES:
        save("plain.png").rename(Path(save("in/plain.png").parent, os.fsdecode(name)))
    Path("in/plain.png").unlink()
    assert {os.fsencode(path.name) for path in Path("in").iterdir()} == set(NAMES)
    options = ("--compare", "--grid", "grid.png", "--format", "webp", "--strip-metadata")
    # A folder's search leaves hidden files out.
    inputs = ("in", *("in/" + os.fsdecode(name) for name in NAMES if name.startswith(b".")))
    result = run(*inputs, "-o", "out", *options)
    assert result.exit_code == 0
    assert result.stderr == "note: left out of the folders, as no pictures: hidden (1)\n"
    assert len(pictures_below("out")) == 2 * len(NAMES)
    assert all(len(os.fsencode(path.name)) <= 255 for path in Path("out").iterdir())
    count = len(NAMES)
    again = run(*inputs, "-o", "out", *options)
    assert (again.exit_code, again.stdout) == (0, f"restored 0 of {count} pictures into out ({count} done before)\n")
    dry = run(*inputs, "-o", "elsewhere", *options, "--dry-run")
    assert dry.exit_code == 0
    assert all(line.isprintable() for line in dry.stdout.splitlines())
    assert len(dry.stdout.splitlines()) == count + 1


def test_any_legal_name_fails_in_one_line(run):
    Path("in").mkdir()
    paths = [Path("in", os.fsdecode(name)) for name in NAMES]
    for path in paths:
        path.write_bytes(b"no picture")
    save("in/good.png")
    result = run(*paths, "in/good.png", "-o", "out")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == len(NAMES)
    assert all(line.isprintable() for line in lines)
    assert pictures_below("out") == ["good.png"]


def test_a_pipe_and_a_missing_plug_in_are_one_line_each(run):
    save("in/good.png")
    os.mkfifo("in/pipe.png")
    Path("in/phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    result = run("in", "-o", "out")
    assert result.exit_code == 1
    assert {line.partition(":")[0] for line in result.stderr.splitlines()} >= {"in/phone.heic", "in/pipe.png"}
    assert pictures_below("out") == ["good.png"]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run):
    for name in ("a.png", "b.jpg", "c.png"):
        save(f"in/{name}")
    run("in/a.png", "-o", "out")
    save("out/c.png")
    before = files_below(".")
    result = run("in/a.png", "in/b.jpg", "in/c.png", "-o", "out", "--dry-run", "--skip-existing")
    assert result.stdout.splitlines() == [
        "restore: in/b.jpg -> out/b.jpg",
        "done before: in/a.png -> out/a.png",
        "skip: in/c.png -> out/c.png",
        "would restore 1 of 3 pictures into out (1 done before, 1 skipped)",
    ]
    assert result.exit_code == 0
    result = run("in", "gone", "-o", "new", "--dry-run")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "gone: No such file or directory")
    assert files_below(".") == before
