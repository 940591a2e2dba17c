"""How the restoring command fails: bad pictures one by one, impossible requests before any work."""

import os
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from dpmambair import batch
from modeling_dpmambair import DPMambaIRModel
from tests.restoring import files_below, photograph, pictures_below, records_below, save


def assert_failed(result, path, reason):
    """One line on stderr tells `reason`, the other picture was restored, nothing else was left."""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{path}: ")
    assert reason in line
    assert result.exit_code == 1
    assert [Path(name).stem for name in pictures_below("out")] == ["good"]


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


def test_a_failure_is_recorded_and_tried_again(run):
    save("in/good.png")
    bad = Path("in/bad.png")
    bad.write_text("no picture")
    for _ in range(2):
        assert run("in", "-o", "out").exit_code == 1
    failed = [record for record in records_below("out") if record["error"]]
    assert [record["output"] for record in failed] == ["bad.png", "bad.png"]
    assert "must be a picture in one of the formats" in failed[0]["error"]
    save(bad)
    result = run("in", "-o", "out")
    assert (result.exit_code, result.stdout) == (0, "restored 1 of 2 pictures into out (1 done before)\n")


def test_a_full_disk_stops_the_run_and_leaves_nothing_half(run, monkeypatch):
    for name in ("a", "b", "c"):
        save(f"in/{name}.png")
    kept = save("out/b.png", photograph((3, 3))).read_bytes()
    encode = batch.encode

    def fill_the_disk(picture, *arguments):
        if run.calls:
            raise OSError(28, "No space left on device")
        run.calls.append(picture)
        return encode(picture, *arguments)

    run.calls = []
    with monkeypatch.context() as patch:
        patch.setattr(batch, "encode", fill_the_disk)
        result = run("in", "-o", "out", "--overwrite")
    assert result.exit_code == 1
    assert result.stdout == "restored 1 of 3 pictures into out\n"
    assert result.stderr == (
        "stopped: No space left on device; what is done is kept; run the same command again to go on\n"
    )
    assert pictures_below("out") == ["a.png", "b.png"]
    assert Path("out/b.png").read_bytes() == kept
    assert run("in", "-o", "out", "--overwrite").stdout == "restored 2 of 3 pictures into out (1 done before)\n"


def test_a_target_that_is_a_folder_fails_alone(run):
    save("in/bad.png")
    save("in/good.png")
    Path("out/bad.png").mkdir(parents=True)
    assert_failed(run("in", "-o", "out"), "in/bad.png", "out/bad.png is a folder")
    assert_failed(run("in", "-o", "out", "--overwrite"), "in/bad.png", "out/bad.png is a folder")


def test_an_output_folder_that_cannot_be_written_is_found_before_the_work(run, monkeypatch):
    save("in/locked/bad.png")
    save("in/good.png")
    access = os.access

    def access_as_somebody_else(path, mode):
        # The superuser may write every folder; everybody else is told so by the system.
        return Path(path).name != "locked" and access(path, mode)

    monkeypatch.setattr(os, "access", access_as_somebody_else)
    monkeypatch.setattr(DPMambaIRModel, "forward", _never_twice(DPMambaIRModel.forward))
    assert_failed(run("in", "-o", "out"), "in/locked/bad.png", "Permission denied: out/locked")


def _never_twice(forward):
    calls = []

    def call(self, *arguments, **options):
        calls.append(self)
        assert len(calls) == 1
        return forward(self, *arguments, **options)

    return call


def assert_not_begun(result, *words):
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert result.exit_code == 2
    assert not Path("out").exists() or files_below("out") == []


def test_an_output_on_a_full_disk_is_refused(run, monkeypatch):
    save("photo.png")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert_not_begun(run("photo.png", "-o", "out"), "No space left on device")


def test_the_grid_must_not_share_a_name_with_a_result(run):
    save("in/photo.png")
    message = "`--grid` must have a name of its own, got out/photo.png"
    assert_not_begun(run("in", "-o", "out", "--grid", "out/photo.png"), message)


def test_a_grid_that_cannot_be_written_is_refused(run):
    save("photo.png")
    message = "`--grid` must have the suffix of a picture, got grid.unknown"
    assert_not_begun(run("photo.png", "-o", "out", "--grid", "grid.unknown"), message)


def test_a_grid_replaces_no_file_but_a_grid(run):
    save("photo.png")
    kept = save("mine.png").read_bytes()
    assert_not_begun(run("photo.png", "-o", "out", "--grid", "mine.png"), "must be a new file, got mine.png")
    assert Path("mine.png").read_bytes() == kept
    for _ in range(2):
        assert run("photo.png", "-o", "out", "--grid", "grid.png").exit_code == 0
    assert run("photo.png", "-o", "out", "--grid", "mine.png", "--overwrite").exit_code == 0


def test_inputs_are_never_overwritten(run):
    save("in/photo.png")
    before = Path("in/photo.png").read_bytes()
    result = run("in", "-o", "in")
    assert result.exit_code == 2
    assert result.stderr == "error: `--output` must not overwrite inputs, got in/photo.png; choose another\n"
    assert Path("in/photo.png").read_bytes() == before
    message = "`--grid` must not overwrite inputs, got in/photo.png"
    assert_not_begun(run("in", "-o", "out", "--grid", "in/photo.png", "--overwrite"), message)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strength", "-1"), "`strength` must be a number from 0 up, got -1.0"),
        (
            ("--only", "fog"),
            "`only` must be left out for a model that does not read its description, got it; take one",
        ),
        (("--strength", "nan"), "`strength` must be a number from 0 up, got nan"),
        (("--format", "jpeg", "--quality", "101"), "`quality` must be from 1 to 100, got 101"),
        (
            ("--format", "png", "--quality", "90"),
            "`quality` must be given with jpeg, webp, avif alone",
        ),
        (("--batch-size", "0"), "`--batch-size` must be at least 1, got 0"),
        (("--overwrite", "--skip-existing"), "`--overwrite` must not stand beside --skip-existing"),
        (("--shard", "3/2"), "`--shard` must be I/N with I from 1 to N, got 3/2"),
        (("--shard", "1/2", "--grid", "grid.png"), "`--grid` must show all pictures, got shard 1/2"),
        (("--report",), "`--report` must be left out for a model that cannot describe"),
    ],
)
def test_an_impossible_option_is_refused(run, arguments, message):
    save("photo.png")
    assert_not_begun(run("photo.png", "-o", "out", *arguments), message)


def test_an_unknown_device_is_refused(run):
    save("photo.png")
    assert_not_begun(run("photo.png", "-o", "out", "--device", "abacus"), "on device abacus")


def test_an_output_that_is_a_file_is_refused(run):
    save("photo.png")
    Path("out").write_text("")
    result = run("photo.png", "-o", "out")
    assert (result.exit_code, result.stderr) == (2, "error: File exists\n")
