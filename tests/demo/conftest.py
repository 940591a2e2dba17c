"""What the tests of the page share: a model that says it is none, and the page served by its own script."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from restoration_page.restorer import Restorer
from transformers import pipeline

from modeling_dpmambair import DPMambaIRImageProcessor
from tests.modeling_dpmambair.models import small_model

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["haze", "rain", "snow", "low_light", "blur", "jpeg", "noise"]
# The page shows a model's name, so nobody takes these weights, or a screenshot of theirs, for a restorer.
MARKER = "random-weights-for-tests"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model that changes pictures and describes them, both at random."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("models") / MARKER
    small_model({"degradations": KINDS}, has_description=True, reads_description=True).save_pretrained(place)
    DPMambaIRImageProcessor().save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def loaded(folder):
    """The restorer that all tests share; its memory is nobody's."""
    return Restorer.from_source(str(folder))


@pytest.fixture
def restorer(loaded):
    """A restorer that remembers nothing yet."""
    return forgetful(loaded)


def forgetful(loaded, **options):
    """Return a restorer with a loaded one's network and an empty memory."""
    return Restorer(loaded._pipeline, loaded.name, **options)


@pytest.fixture(scope="session")
def pipe(folder):
    """The pipeline of the same model, loaded as a user does."""
    return pipeline("image-restoration", model=str(folder))


@pytest.fixture(scope="session")
def address(folder, tmp_path_factory):
    """Address of the page, served by `demo/app.py` in a process of its own."""
    log = tmp_path_factory.mktemp("page") / "log.txt"
    port = 7861 + os.getpid() % 1000
    environment = {
        **os.environ, "DPMAMBAIR_MODEL": str(folder), "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads")),
    }  # fmt: skip
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, ROOT / "demo" / "app.py"], env=environment, stdout=output, stderr=output
        )
    try:
        yield wait_for(f"http://127.0.0.1:{port}", server, log)
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(address, server, log):
    """Return the address once somebody answers there."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(f"{address}/config", timeout=10):
                return address
        except URLError:
            time.sleep(0.5)
    pytest.fail(f"the page did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def screenshots():
    """Folder for pictures of the page; continuous integration keeps it."""
    place = ROOT / "build" / "screenshots"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place
