"""Programs call the page's endpoint, as docs/demo.md shows."""

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tests.demo.conftest import KINDS, ROOT
from tests.documents import code_blocks
from tests.restoring import read

pytestmark = pytest.mark.slow
EXAMPLE = ROOT / "examples" / "rain.png"


@pytest.fixture
def client(address, tmp_path):
    client = Client(address, verbose=False, download_files=tmp_path, analytics_enabled=False)
    yield client
    client.close()


@pytest.mark.ci
def test_lines_of_the_documentation_restore_a_picture(address, restorer, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = code_blocks("docs/demo.md", "python")
    assert '"http://127.0.0.1:7860"' in block
    found = {}
    exec(block.replace('"http://127.0.0.1:7860"', f'"{address}", download_files="{tmp_path}"'), found)
    expected = restorer.at_strength(restorer.restore(EXAMPLE), 1).image
    assert np.array_equal(read(found["restored"]), expected)
    assert list(found["degradations"]) == KINDS


def test_strength_counts(client, restorer):
    restored, _ = client.predict(picture=handle_file(EXAMPLE), strength=0.5, api_name="/restore")
    assert np.array_equal(read(restored), restorer.at_strength(restorer.restore(EXAMPLE), 0.5).image)


def test_strength_may_be_left_out(client, restorer):
    restored, _ = client.predict(picture=handle_file(EXAMPLE), api_name="/restore")
    assert np.array_equal(read(restored), restorer.at_strength(restorer.restore(EXAMPLE), 1).image)


def test_bad_file_raises_the_pages_message(client, tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("no picture")
    with pytest.raises(AppError, match="not a picture that can be read here"):
        client.predict(picture=handle_file(path), api_name="/restore")
