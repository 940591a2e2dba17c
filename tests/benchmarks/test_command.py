"""The benchmark of the command line: what it writes."""

import json

from typer.testing import CliRunner

from benchmarks import command
from modeling_dpmambair import DPMambaIRImageProcessor
from tests.modeling_dpmambair.models import small_model


def test_results_say_seconds_and_memory_of_each_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "SIZES", ((24, 16),))
    small_model().save_pretrained(tmp_path / "model")
    DPMambaIRImageProcessor().save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model", "--repeats", 1, "--output", tmp_path / "command.json"]
    result = CliRunner().invoke(command.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    (record,) = json.loads((tmp_path / "command.json").read_text())["records"]
    assert (record["width"], record["height"]) == (24, 16)
    assert record["seconds"] > 0.5  # torch alone takes as long to import
    assert record["memory"] > 2**27
