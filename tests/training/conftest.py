from types import SimpleNamespace

import pytest

from tests.training.runs import make_place


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let epochs end after each picture was shown once, as short runs would else never come to the end of one."""
    monkeypatch.setattr("training.pictures.LEAST_EPOCH", 1)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_place(tmp_path_factory.mktemp("place"))
