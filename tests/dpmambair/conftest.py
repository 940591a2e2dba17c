from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from modeling_dpmambair import Restorer
from tests.restoring import run_command, save_random_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@cache
def load_once(folder, changed, *options):
    """Load a model from the files of one time, and keep it: a restorer is frozen, and restoring leaves its model."""
    return Restorer.from_pretrained(folder, *options)


def load(source, *options):
    """Load a model as the command does, but each only once, as that takes longer than most tests."""
    folder = Path(source).resolve()
    if not (folder / "model.safetensors").exists():
        return Restorer.from_pretrained(source, *options)
    return load_once(source, tuple(sorted((path, path.stat().st_mtime_ns) for path in folder.iterdir())), *options)


@pytest.fixture
def run(model_folder, tmp_path, monkeypatch):
    """Run the command inside `tmp_path` with the test's model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dpmambair.work.Restorer", SimpleNamespace(from_pretrained=load))
    return lambda *arguments, model=model_folder: run_command(model, *arguments)
