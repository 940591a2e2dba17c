"""README keeps its word: its commands exist, its Python runs, its files are there, its numbers are rendered."""

import re

import numpy as np
import pytest

from tests.documents import (
    ROOT,
    check_command,
    code_blocks,
    load_command,
    missing_links,
    read,
    run_python_block,
    shell_commands,
    typed_measurements,
)


@pytest.mark.parametrize("line", shell_commands("README.md"))
def test_command_exists_and_takes_its_options(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_command(line)


@pytest.mark.ci
@pytest.mark.slow
def test_python_lines_restore_a_picture(tmp_path):
    degraded, restored = run_python_block("README.md", tmp_path)
    assert (restored.mode, restored.size) == ("RGB", degraded.size)
    assert (np.asarray(restored) != np.asarray(degraded)).any()


def test_make_restore_and_make_test_come_first():
    lines = code_blocks("README.md", "bash")[0].splitlines()
    assert [line.partition("#")[0].split() for line in lines] == [["make", "restore"], ["make", "test"]]


def test_table_of_options_is_that_of_the_command():
    rows = re.search(r"\| option \| meaning \|\n\|.*\n((?:\|.*\n)+)", read("README.md"))[1].splitlines()
    described = {option for row in rows for option in re.findall(r"(?<=`)--?[\w-]+", row.split("|")[1])}
    options = [each for each in load_command("dpmambair.restore").params if each.param_type_name == "option"]
    assert described == {spelling for option in options for spelling in option.opts}


def test_linked_files_and_pictures_exist():
    assert missing_links("README.md") == []


def test_measured_numbers_stand_in_rendered_tables_only():
    assert typed_measurements("README.md") == []
