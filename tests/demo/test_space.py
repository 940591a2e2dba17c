"""What a Space reads of the folder `demo`."""

import re
import threading
import tomllib
from types import SimpleNamespace

import app
import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

from dpmambair.shipped import SHIPPED
from tests.demo.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(extra=None):
    """Return the project's requirements by name."""
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    return {Requirement(line).name: Requirement(line) for line in lines}


@pytest.fixture
def front_matter():
    return SpaceCard.load(ROOT / "demo" / "README.md").data


def test_front_matter_names_script_licence_and_machine(front_matter):
    assert front_matter.sdk == "gradio"
    assert (ROOT / "demo" / front_matter.app_file).is_file()
    assert front_matter.license == PROJECT["license"].lower()
    assert len(front_matter.short_description) <= 60
    assert front_matter.suggested_hardware == "cpu-basic"


def test_space_runs_versions_that_the_project_allows(front_matter):
    assert declared("demo")["gradio"].specifier.contains(front_matter.sdk_version)
    assert re.search(r"\d+\.\d+", PROJECT["requires-python"])[0] <= front_matter.python_version


def test_space_installs_what_the_project_requires_in_the_same_versions():
    lines = (ROOT / "demo" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {Requirement(line).name: Requirement(line) for line in lines if not line.startswith("#")}
    known = declared() | declared("demo")
    assert {name: known[name] for name in required} == required
    assert {"torch", "torchvision", "transformers", "numba", "cachetools"} <= set(required)


def test_model_and_examples_are_found_in_the_repository_and_in_a_space(tmp_path, monkeypatch):
    assert app.find(app.SHIPPED) == SHIPPED
    monkeypatch.setattr(app, "HERE", tmp_path)
    (tmp_path / "examples").mkdir()
    assert app.find("examples") == tmp_path / "examples"


def test_loading_the_page_switches_statistics_off():
    assert app.os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_pictures_are_forgotten_again_and_again():
    calls = threading.Semaphore(0)
    ended = app.sweep(SimpleNamespace(forget=calls.release), interval=0.01)
    assert all(calls.acquire(timeout=60) for _ in range(3))
    ended.set()


def test_page_does_not_start_without_trained_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("DPMAMBAIR_MODEL", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match=r"error: `DPMAMBAIR_MODEL` must be a trained restorer, got .*nothing; give"):
        app.main()
