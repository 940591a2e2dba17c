"""Rows of data sets: restored alike by every engine, and as the command restores files."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image

from dpmambair.rows import RowRestorer
from dpmambair.settings import Settings
from dpmambair.shipped import SHIPPED
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


@pytest.mark.slow
def test_datasets_map_gives_the_same_with_two_processes(pictures, restorer):
    rows = Dataset.from_dict({"image": list(map(str, pictures))}).cast_column("image", Image(decode=False))
    assert rows.map(restorer, with_rank=True, num_proc=2)["restored"][:] == list(pictures.values())


@pytest.mark.slow
def test_ray_gives_the_files_of_the_command_with_two_workers(pictures, model_folder, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    try:
        rows = ray.data.read_binary_files(str(Path("in").resolve()), include_paths=True)
        options = {"column": "bytes", "model": str(model_folder), "device": "cpu", "dtype": "float32"}
        restored = rows.map(RowRestorer, fn_constructor_kwargs=options, concurrency=2)
        found = {Path(row["path"]).name: row["restored"] for row in restored.iter_rows()}
    finally:
        ray.shutdown()
    assert found == {path.name: content for path, content in pictures.items()}
