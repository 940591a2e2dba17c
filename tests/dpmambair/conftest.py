import pytest

from tests.restoring import run_command, save_random_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(model_folder, tmp_path, monkeypatch):
    """Run the command inside `tmp_path` with the test's model."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, model=model_folder: run_command(model, *arguments)
