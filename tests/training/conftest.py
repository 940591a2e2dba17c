from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.training.runs import make_place


@pytest.fixture(autouse=True, scope="package")
def short_epochs() -> Iterator[None]:
    """Let epochs end after each picture was shown once, as short runs would else never come to the end of one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("training.pictures.LEAST_EPOCH", 1)
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_place(tmp_path_factory.mktemp("place"))
