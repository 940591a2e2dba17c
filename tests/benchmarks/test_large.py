"""The benchmark of large pictures: what it runs, and its table."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import large, large_peer
from benchmarks.large_table import large_grid
from dpmambair.shipped import SHIPPED
from tests.restoring import photograph, read, save


def test_table_has_a_row_for_each_picture_and_network():
    record = {"network": "light", "options": "", "width": 4000, "height": 3000, "seconds": 61.4, "memory": 3 * 2**29}
    assert large_grid({"records": [record, record | {"options": "--memory 1"}]})[1:] == [
        ["4000 x 3000", "12.0", "light", "-", "61", "1.50"],
        ["4000 x 3000", "12.0", "light", "`--memory 1`", "61", "1.50"],
    ]


def test_the_other_network_takes_no_larger_pictures_than_it_should(monkeypatch, tmp_path):
    monkeypatch.setattr(large, "SIZES", {(24, 16): (), (2000, 1001): ("--memory", "1")})
    monkeypatch.setattr(large, "run", lambda command: (2.0, 2**30))
    output = tmp_path / "large.json"
    result = CliRunner().invoke(large.app, ["--peer-megapixels", "2", "--output", str(output)])
    assert result.exit_code == 0, result.output
    records = json.loads(output.read_text())["records"]
    assert [(each["network"], each["width"]) for each in records] == [
        (SHIPPED.resolve().name, 24), ("NAFNet-32", 24), (SHIPPED.resolve().name, 2000),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_other_network_writes_a_picture_of_the_same_size(tmp_path):
    large_peer.restore(save(tmp_path / "photo.png", photograph((40, 24))), tmp_path / "restored.png")
    restored = read(tmp_path / "restored.png")
    assert restored.size == (40, 24)
    assert not np.array_equal(restored, photograph((40, 24)))
