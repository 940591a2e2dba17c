"""What the static page is put together of, without npm and without an export; both are in test_static_page.py."""

import json

import build_static
import pytest

from dpmambair.shipped import ATTRIBUTION


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder that stands for a model; its runtime and its network are empty folders."""
    monkeypatch.setattr(build_static, "fetch_runtime", lambda: None)
    monkeypatch.setattr(build_static, "unpack_runtime", lambda archive, folder: folder.mkdir())
    monkeypatch.setattr(build_static, "export_network", lambda model, folder: folder.mkdir())
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def test_page_names_the_authors_of_the_photographs_where_the_model_does(model, tmp_path):
    build_static.build(tmp_path / "without", model)
    assert list((tmp_path / "without/network").iterdir()) == []
    (model / ATTRIBUTION).write_text("title,author\n")
    build_static.build(tmp_path / "with", model)
    assert (tmp_path / "with/network" / ATTRIBUTION).read_text() == "title,author\n"


def test_every_example_that_is_named_is_there(model, tmp_path):
    build_static.build(tmp_path / "page", model)
    names = json.loads((tmp_path / "page/examples/names.json").read_text())
    assert len(names) == 8
    assert {path.name for path in (tmp_path / "page/examples").iterdir()} == {*names, "names.json", "README.md"}


def test_failure_leaves_nothing_behind_and_a_folder_that_exists_is_refused(model, tmp_path, monkeypatch):
    def fail(model, folder):
        raise ValueError("no network")

    monkeypatch.setattr(build_static, "export_network", fail)
    with pytest.raises(ValueError, match="no network"):
        build_static.build(tmp_path / "page", model)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(ValueError, match="`DIR` must be a new folder, got .*model; remove it or name another"):
        build_static.build(model, model)
