"""What results files say of the machine."""

import os
import re

import torch

from dpmambair import machine
from tests.publishing import commit_all


def test_machine_is_named_with_its_threads_and_torch():
    described = machine.describe_machine()
    assert described["cpu"]
    assert (described["cores"], described["threads"]) == (os.cpu_count(), torch.get_num_threads())
    assert described["torch"] == torch.__version__


def test_commit_is_that_of_the_repository_and_tells_of_changes(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("one")
    commit_all(tmp_path)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    head = machine.read_commit()
    assert re.fullmatch("[0-9a-f]{40}", head)
    (tmp_path / "file").write_text("two")
    (tmp_path / "other").touch()
    assert machine.read_commit() == f"{head}+"
    monkeypatch.setenv("PATH", "")
    assert machine.read_commit() is None


def test_command_is_told_without_the_paths_of_a_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/somewhere/study.py", "a b", "--clean", "/mnt/photographs"])
    assert machine.describe_command() == "python study.py 'a b' --clean photographs"
    assert machine.describe_command("rooms.study") == "python -m rooms.study 'a b' --clean photographs"
