"""The benchmark of the command line: what it writes."""

import json
import sys

import pytest
from typer.testing import CliRunner

from benchmarks import command
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import DPMambaIRImageProcessor
from tests.documents import ROOT, check_command
from tests.modeling_dpmambair.models import small_model

# In place of the command: it says how it was called, and holds a known amount of memory.
STAND_IN = """
import pathlib, sys, time
held = b"x" * 2**28
time.sleep(0.2)
pathlib.Path(sys.argv[3]).write_text(" ".join(sys.argv[1:]))
"""


def test_seconds_and_memory_are_those_of_the_command(tmp_path, monkeypatch):
    module = command.COMMAND[1:]
    monkeypatch.setattr(command, "COMMAND", (sys.executable, "-c", STAND_IN))
    picture, output = ROOT / "examples/rain.png", tmp_path / "called"
    seconds, memory = command.run(command.command_of(picture, SHIPPED, output))
    assert 0.2 < seconds < 60
    assert memory > 2**28
    monkeypatch.chdir(ROOT)
    check_command(f"python {' '.join(module)} {output.read_text()}")


def test_every_run_restores_anew(tmp_path, monkeypatch):
    outputs = []
    monkeypatch.setattr(command, "run", lambda given: outputs.append(given[given.index("-o") + 1]) or (1.0, 2))
    assert command.measure((24, 16), SHIPPED, 3)["seconds"] == 1
    assert len(set(outputs)) == 4


@pytest.mark.slow
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
