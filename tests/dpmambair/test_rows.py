"""Rows of data sets: restored alike by every engine, and as the command restores files."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image, load_from_disk

from dpmambair.rows import RowRestorer
from dpmambair.settings import Settings
from dpmambair.shipped import SHIPPED
from tests.documents import code_blocks
from tests.restoring import ROOT, photograph, read, save

OPTIONS = ("--dtype", "float32", "--device", "cpu")


@pytest.fixture
def pictures(run):
    """Some pictures in files, with what the command makes of them."""
    paths = [save(f"in/{n}.{suffix}", photograph(seed=n)) for n, suffix in enumerate(("png", "jpg", "webp", "png"))]
    assert run("in", "-o", "out", *OPTIONS).exit_code == 0
    return {path: Path("out", path.name).read_bytes() for path in paths}


@pytest.fixture
def restorer(model_folder):
    return RowRestorer(model=str(model_folder), device="cpu", dtype="float32")


def test_a_row_keeps_its_columns_and_gains_what_the_command_writes(pictures, restorer):
    for path, expected in pictures.items():
        for value in (path.read_bytes(), str(path), {"bytes": None, "path": str(path)}, {"bytes": path.read_bytes()}):
            row = pickle.loads(pickle.dumps(restorer))({"image": value, "label": 3}, rank=1)
            assert row == {"image": value, "label": 3, "restored": expected, "error": ""}


def test_settings_decide_the_file(pictures, model_folder):
    restorer = RowRestorer("file", Settings(strength=0, format="png"), model=str(model_folder), dtype="float32")
    for path in pictures:
        Path("found.png").write_bytes(restorer({"file": str(path)})["restored"])
        np.testing.assert_array_equal(read("found.png"), read(path).convert("RGB"))


def test_a_failure_is_told_in_its_row(restorer):
    row = restorer({"image": b"no picture"})
    assert row["restored"] == b""
    assert row["error"].startswith("`image` must be a picture in one of the formats")


def test_a_report_is_json():
    row = RowRestorer(report=True, device="cpu", model=str(SHIPPED))({"image": str(ROOT / "examples/low_light.png")})
    assert json.loads(row["detected"])["low_light"]["presence"] > 0.9
    assert RowRestorer(report=True, device="cpu")({"image": b"no picture"})["detected"] == ""


def test_datasets_map_gives_the_files_of_the_command(pictures, restorer):
    paths = [*map(str, pictures), __file__]
    rows = Dataset.from_dict({"image": paths}).cast_column("image", Image(decode=False))
    restored = rows.map(restorer, with_rank=True)
    assert restored["restored"][:-1] == list(pictures.values())
    assert [bool(error) for error in restored["error"]] == [False] * len(pictures) + [True]
    shown = restored.select(range(len(pictures))).cast_column("restored", Image())[0]["restored"]
    np.testing.assert_array_equal(shown, read("out/0.png"))


def run_block(number, folder):
    """Run one of the document's Python blocks as it stands, as its reader does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", code_blocks("docs/bulk.md", "python")[number]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def photos(run, tmp_path):
    """The folder that the document restores, and what the command makes of its pictures."""
    for seed, suffix in enumerate(("png", "jpg", "webp", "png")):
        save(f"PHOTOS/{seed}.{suffix}", photograph(seed=seed))
    assert run("PHOTOS", "-o", "EXPECTED", model=SHIPPED).exit_code == 0
    return {path.name: path.read_bytes() for path in Path("EXPECTED").iterdir() if path.suffix != ".jsonl"}


@pytest.mark.ci
@pytest.mark.slow
def test_datasets_with_two_processes_gives_the_files_of_the_command(photos, tmp_path):
    run_block(0, tmp_path)
    rows = load_from_disk("RESTORED").cast_column("restored", Image(decode=False))
    assert {Path(row["image"]["path"]).name: row["restored"]["bytes"] for row in rows} == photos


@pytest.mark.ci
@pytest.mark.slow
def test_ray_with_two_workers_gives_the_files_of_the_command(photos, tmp_path):
    pytest.importorskip("ray")
    run_block(1, tmp_path)
    rows = Dataset.from_parquet([str(path) for path in Path("RESTORED").glob("*.parquet")])
    assert set(rows["error"]) == {""}
    assert {Path(row["path"]).name: row["restored"] for row in rows} == photos
