"""How the restoring command fails: bad pictures one by one, impossible requests before any work."""

import os
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from dpmambair.restore import describe
from modeling_dpmambair import DPMambaIRModel
from tests.restoring import files_below, photograph, save


def assert_failed(result, path, reason):
    """One line on stderr tells `reason`, the other picture was restored, nothing else was left."""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{path}: ")
    assert reason in line
    assert result.exit_code == 1
    assert files_below("out") == ["good.png"]


def test_a_missing_file_fails_alone(run):
    save("good.png")
    assert_failed(run("missing.jpg", "good.png", "-o", "out"), "missing.jpg", "No such file or directory")


def test_a_text_file_named_jpg_fails_alone(run):
    save("in/good.jpg")
    Path("in/bad.jpg").write_text("Dear diary")
    assert_failed(run("in", "-o", "out"), "in/bad.jpg", "`image` must be a picture in one of the formats")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_picture_fails_alone(run, suffix):
    save("in/good.png")
    bad = save(f"in/bad.{suffix}", photograph((64, 64)))
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    assert_failed(run("in", "-o", "out"), bad, "truncated")


def test_an_unreadable_folder_fails_alone(run, monkeypatch):
    save("in/good.png")
    save("in/locked/unseen.png")
    Path("in/locked").chmod(0)
    scan = os.scandir

    def scan_as_somebody_else(path):
        # The superuser may read every folder; everybody else gets this error from the system.
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan_as_somebody_else)
        result = run("in", "-o", "out")
    Path("in/locked").chmod(0o700)
    assert_failed(result, "in/locked", "Permission denied")


def test_a_folder_without_pictures_fails_alone(run):
    save("good.png")
    Path("empty").mkdir()
    assert_failed(run("good.png", "empty", "-o", "out"), "empty", "no pictures in this folder")


def test_a_decompression_bomb_fails_alone(run):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    save("in/good.png")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    Path("in/bomb.png").write_bytes(bomb)
    assert_failed(run("in", "-o", "out"), "in/bomb.png", "decompression bomb")


def test_a_large_photograph_below_the_guard_is_no_reason_for_a_message(run, monkeypatch):
    save("good.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 16 - 1)
    result = run("good.png", "-o", "out")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB.\nSee the docs."), "not enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 TB"),
            "not enough memory",
        ),
        (MemoryError(), "not enough memory"),
        (RuntimeError("shapes differ\nsecond line"), "shapes differ"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_error_of_the_model_fails_one_picture_alone(run, monkeypatch, error, reason):
    save("in/bad.png", photograph((9, 9)))
    save("in/good.png")
    forward = DPMambaIRModel.forward

    def fail_at_nine_pixels(self, pixel_values, **options):
        if pixel_values.shape[-1] == 9:
            raise error
        return forward(self, pixel_values, **options)

    monkeypatch.setattr(DPMambaIRModel, "forward", fail_at_nine_pixels)
    assert_failed(run("in", "-o", "out"), "in/bad.png", reason)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing_behind(run, monkeypatch, error):
    save("photo.png")
    kept = save("out/photo.png", photograph((3, 3))).read_bytes()

    def write_half(self, path, **options):
        Path(path).write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", write_half)
        result = run("photo.png", "-o", "out")
    assert result.exit_code != 0
    assert files_below("out") == ["photo.png"]
    assert Path("out/photo.png").read_bytes() == kept


def test_a_target_that_is_a_folder_fails_alone(run):
    save("in/bad.png")
    save("in/good.png")
    Path("out/bad.png").mkdir(parents=True)
    assert_failed(run("in", "-o", "out"), "in/bad.png", "directory")


def test_a_system_error_names_the_other_file_that_it_is_about():
    assert describe(FileExistsError(17, "File exists", "out/a"), "in/a.png") == "File exists: out/a"
    assert describe(FileExistsError(17, "File exists", "in/a.png"), "in/a.png") == "File exists"


def assert_not_begun(result, *words):
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert result.exit_code == 2
    assert not Path("out").exists() or files_below("out") == []


@pytest.mark.parametrize(
    "inputs",
    [("a/photo.png", "b/photo.jpg"), ("a", "b"), ("a/photo.png", "a/photo.png"), ("a", "a/photo.png")],
)
def test_inputs_that_would_write_one_file_are_refused(run, inputs):
    save("a/photo.png")
    save("b/photo.jpg")
    assert_not_begun(
        run(*inputs, "-o", "out"), "outputs must have distinct names, got out/photo.png for both", *inputs[:1]
    )


def test_a_comparison_or_grid_must_not_share_a_name_with_a_result(run):
    save("in/photo.png")
    save("in/photo_compare.png")
    assert_not_begun(run("in", "-o", "out", "--compare"), "distinct names", "out/photo_compare.png")
    assert_not_begun(run("in", "-o", "out", "--grid", "out/photo.png"), "distinct names", "--grid")


def test_inputs_are_never_overwritten(run):
    save("in/photo.png")
    before = Path("in/photo.png").read_bytes()
    result = run("in", "-o", "in")
    assert result.exit_code == 2
    assert result.stderr == "error: `--output` must not overwrite inputs, got in/photo.png; choose another folder\n"
    assert Path("in/photo.png").read_bytes() == before
    assert_not_begun(run("in", "-o", "out", "--grid", "in/photo.png"), "must not overwrite inputs")


def test_a_missing_model_folder_is_refused(run):
    save("photo.png")
    message = "`--model` must be a folder with a model's config.json, got nowhere; give --model DIR"
    assert_not_begun(run("photo.png", "-o", "out", model="nowhere"), message)


def test_broken_model_files_are_refused(run, model_folder):
    save("photo.png")
    Path("broken").mkdir()
    Path("broken/config.json").write_bytes((model_folder / "config.json").read_bytes())
    assert_not_begun(run("photo.png", "-o", "out", model="broken"), "cannot load broken")


@pytest.mark.parametrize("memory", ["-1", "nan", "inf"])
def test_an_impossible_memory_is_refused(run, memory):
    save("photo.png")
    message = f"`--memory` must be a number of GiB from 0 up, got {float(memory)}; 3.0 is the default"
    assert_not_begun(run("photo.png", "-o", "out", "--memory", memory), message)


def test_an_unknown_device_is_refused(run):
    save("photo.png")
    assert_not_begun(run("photo.png", "-o", "out", "--device", "abacus"), "on device abacus")


def test_an_output_that_is_a_file_is_refused(run):
    save("photo.png")
    Path("out").write_text("")
    result = run("photo.png", "-o", "out")
    assert (result.exit_code, result.stderr) == (2, "error: File exists\n")
