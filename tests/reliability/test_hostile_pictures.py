"""Thousands of hostile pictures at every door: restored or refused in one line, in time, and nothing left behind."""

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from restoration_page.pictures import UnusablePictureError, read_upload
from starlette.testclient import TestClient
from transformers import pipeline
from typer.testing import CliRunner

import evaluate_accelerate
from dataset_scripts.__main__ import app as builders
from dataset_scripts.pairing import SUFFIXES, find_faults, list_pictures
from dpmambair.console import printable
from dpmambair.serve import Limits, create_app
from modeling_dpmambair import TASK, DPMambaIRImageProcessor, Restorer, read_picture
from tests.modeling_dpmambair.models import small_model
from tests.reliability.conftest import RECORD
from tests.reliability.hostile_pictures import NAMES, hostile_pictures, make_special_files, write_corpus
from tests.restoring import files_below, photograph, run_command, save

# As users run it: a warning is no refusal.
pytestmark = pytest.mark.filterwarnings("ignore")
# Seconds of the processor for a tiny file, restoring included.
PATIENCE = 5
# The fast tests take a sample, of which those that count have no need.
SAMPLES = [1] if RECORD in os.environ else [61, pytest.param(1, marks=pytest.mark.slow)]
REFUSALS = OSError, ValueError, Image.DecompressionBombError
PROGRESS = re.compile(r"\d+/\d+ \[.*picture")
ODD_WORDS = re.compile(r"Traceback|<.* object at 0x|\n.")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    small_model().save_pretrained(folder)
    DPMambaIRImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=SAMPLES)
def corpus(request, tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("hostile") / "in", request.param)


def try_all(corpus, door, refusals, is_named=False):
    """Hand each file to a door; return what was raised that is no refusal, took too long, or has several lines.

    With `is_named` refusals must name the file.
    """
    failed = []
    for path in corpus:
        begun, said = time.process_time(), ""
        try:
            door(path)
        except refusals as error:
            said = str(error)
        except BaseException as error:
            failed.append(f"{path.name}: {type(error).__name__}: {error}")
        if time.process_time() - begun > PATIENCE:
            failed.append(f"{path.name}: {time.process_time() - begun:.1f} s")
        if ODD_WORDS.search(said) or (is_named and said and path.name not in said):
            failed.append(f"{path.name}: {said!r}")
    return failed


@pytest.mark.ci
@pytest.mark.slow
def test_corpus_has_thousands_of_different_names():
    names = [name for name, _ in hostile_pictures()]
    assert len(set(names)) == len(names) >= 2000


def test_reader(corpus, record):
    record("hostile pictures", "reader", len(corpus), try_all(corpus, read_picture, REFUSALS))


def test_pipeline(corpus, model, record):
    restore = pipeline(TASK, model=str(model), device="cpu")
    record(
        "hostile pictures", "pipeline", len(corpus), try_all(corpus, lambda path: restore(str(path)), REFUSALS, True)
    )


def test_processor(corpus, record):
    processor = DPMambaIRImageProcessor()
    found = try_all(corpus, lambda path: processor(str(path), return_tensors="pt"), REFUSALS, True)
    record("hostile pictures", "image processor", len(corpus), found)


def test_page(corpus, record):
    def upload(path):
        read_upload(path.read_bytes(), read_picture)

    record("hostile pictures", "page", len(corpus), try_all(corpus, upload, UnusablePictureError))


def test_service(corpus, record):
    restorer = Restorer(small_model(has_description=True), DPMambaIRImageProcessor())
    failed = []
    with TestClient(create_app(restorer, Limits(body=2_000_000, pixels=200_000))) as client:
        for path in corpus:
            begun = time.process_time()
            answer = client.post("/restore", content=path.read_bytes())
            is_told = answer.status_code == 200 or len(answer.json()["detail"].splitlines()) == 1
            if answer.status_code not in (200, 413, 422) or not is_told or time.process_time() - begun > PATIENCE:
                failed.append(f"{path.name}: {answer.status_code}")
    record("hostile pictures", "service", len(corpus), failed)


def test_builders(corpus, record):
    listed = [picture.path for picture in list_pictures(corpus[0].parent)]
    faults = find_faults(listed)
    failed = [fault.path for fault in faults if not fault.reason or ODD_WORDS.search(fault.reason)]
    sound = set(listed) - {fault.path for fault in faults}
    failed += try_all([Path(path) for path in sorted(sound)], _decode_as_datasets_do, ())
    record("hostile pictures", "dataset builders", len(listed), failed)


def _decode_as_datasets_do(path):
    with Image.open(path) as image:
        assert np.asarray(image.convert("RGB")).ndim == 3


def test_command_line(corpus, model, tmp_path, record):
    make_special_files(corpus[0].parent)
    given = corpus[0].parent
    result = run_command(model, given, "-o", tmp_path / "out", "--device", "cpu")
    lines = result.stderr.splitlines()
    complaints = [line for line in lines if not line.startswith("note: ")]
    failed = [line for line in complaints if not line.startswith(f"{given}/") or ODD_WORDS.search(line)]
    if result.exit_code not in (0, 1) or (result.exception and not isinstance(result.exception, SystemExit)):
        failed.append(f"exit {result.exit_code}: {result.exception!r}")
    written = [name for name in files_below(tmp_path / "out") if not name.endswith(".jsonl")]
    failed += [f"left over: {name}" for name in files_below(tmp_path / "out") if ".part" in name]
    failed += [f"no picture: {name}" for name in written if not _is_whole(tmp_path / "out" / name)]
    told = {line.split(": ")[0] for line in complaints}
    (counted,) = re.findall(r"^restored (\d+) of (\d+) pictures", result.stdout, re.MULTILINE)
    if int(counted[0]) != len(written) or int(counted[1]) != len(written) + len(told):
        failed.append(f"{result.stdout.splitlines()[-1]}, but {len(written)} are written and {len(told)} refused")
    record("hostile pictures", "command line", int(counted[1]), failed)


def _is_whole(path):
    try:
        read_picture(path)
    except REFUSALS:
        return False
    return True


@pytest.mark.parametrize("side", ["degraded", "clean"])
def test_evaluation(corpus, model, tmp_path, record, side):
    pictures = [path for path in corpus if path.is_file() and path.suffix in SUFFIXES]
    (tmp_path / "special").mkdir()
    pictures += [tmp_path / "special" / name for name in make_special_files(tmp_path / "special")]
    stems = {path.stem: path for path in pictures}  # pairs have equal names
    other = "clean" if side == "degraded" else "degraded"
    (tmp_path / side).mkdir()
    for path in stems.values():
        (tmp_path / side / path.name).symlink_to(path)
        save(tmp_path / other / f"{path.stem}.png", photograph((40, 24)))
    save(tmp_path / side / "sound.png"), save(tmp_path / other / "sound.png")
    arguments = ["--degraded", tmp_path / "degraded", "--clean", tmp_path / "clean", "--model", model]
    given = [*map(str, arguments), "--output", str(tmp_path / "out" / "a.json")]
    result = CliRunner().invoke(evaluate_accelerate.app, given)
    failed = []
    if result.exit_code not in (0, 1) or (result.exception and not isinstance(result.exception, SystemExit)):
        failed.append(f"exit {result.exit_code}: {result.exception!r} {result.stderr[-500:]}")
    starts = tuple(f"degraded/{path.stem}." for path in stems.values())
    for line in result.stderr.splitlines():  # those of the progress bar are empty, or count pictures
        if line.strip() and not line.startswith(starts) and not PROGRESS.search(line):
            failed.append(line)
    failed += [f"left over: {name}" for name in files_below(tmp_path / "out") if not name.startswith("a.")]
    record("hostile pictures", f"evaluation, {side}", len(stems) + 1, failed)


def test_commands_of_the_builders(corpus, tmp_path, record):
    given = tmp_path / "in"
    given.mkdir()
    for path in corpus:
        (given / path.name).symlink_to(path)
    for name in NAMES:
        (given / os.fsdecode(name)).write_bytes(b"no picture")
    count = len(list_pictures(given))
    result = CliRunner().invoke(builders, ["verify", "noise_sigma25", str(given)])
    head, *faults = result.stdout.splitlines()
    escaped = [printable(os.fsdecode(name)) for name in NAMES if not name.startswith(b".")]
    failed = [name for name in escaped if not any(f"/{name}: " in line for line in faults)]
    failed += [line for line in faults if not line.isprintable() or ODD_WORDS.search(line)]
    if head != f"{len(faults)} unreadable:" or result.exit_code != 1 or not isinstance(result.exception, SystemExit):
        failed.append(f"exit {result.exit_code}: {result.exception!r} {head}")
    record("hostile pictures", "dataset_scripts verify", count, failed)


# What is no ordinary file, and names


@pytest.fixture
def strange(tmp_path):
    folder = tmp_path / "strange"
    folder.mkdir()
    return folder, make_special_files(folder)


def test_special_files_are_refused_before_they_are_opened(strange, model, record):
    folder, special = strange
    restore = pipeline(TASK, model=str(model), device="cpu")
    for name, door in {"reader": read_picture, "pipeline": restore, "processor": DPMambaIRImageProcessor()}.items():
        failed = []
        for each in special:
            try:
                door(str(folder / each))
                failed.append(each)
            except OSError as error:
                failed += [] if each in str(error) else [str(error)]
        record("special files", name, len(special), failed)
    faults = {Path(fault.path).name for fault in find_faults([str(folder / name) for name in special])}
    record("special files", "dataset builders", len(special), sorted(set(special) - faults))


def test_every_legal_name_is_restored_to_its_own(strange, model, tmp_path, record):
    folder, special = strange
    result = run_command(model, folder, "-o", tmp_path / "out", "--device", "cpu", "--compare")
    complaints = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    failed = [line for line in complaints if not any(name in line for name in special)]
    written = {path.name.encode("utf-8", "surrogateescape") for path in (tmp_path / "out").iterdir()}
    failed += [repr(name) for name in NAMES if name not in written and not name.startswith(b".")]
    assert not any(character in result.stdout + result.stderr for character in "\x1b\r\u202e")
    record("legal names", "command line", len(NAMES), failed)
