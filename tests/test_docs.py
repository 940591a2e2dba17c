"""The documents beside README and card keep their word: commands, Python, files and headings are there."""

import ast
import importlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dpmambair import SHIPPED, Restorer
from modeling_dpmambair.picture_files_dpmambair import FORMATS, SYNONYMS
from tests.dataset_scripts.miniatures import MINIATURES, build, build_five_tasks
from tests.documents import (
    ROOT,
    all_commands,
    check_command,
    code_blocks,
    load_command,
    missing_links,
    missing_paths,
    read,
    run_python_block,
    typed_measurements,
)

DOCUMENTS = [
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
    *("CONTRIBUTING.md", "SECURITY.md"),
]
COMMANDS = [(name, command) for name in DOCUMENTS for command in all_commands(name)]
BLOCKS = [(name, block) for name in DOCUMENTS for block in code_blocks(name, "python")]
OURS = (
    "modeling_dpmambair",
    "dataset_scripts",
    "restoration_metrics",
    "evaluation",
    "training",
    "dpmambair",
    "export_model",
)


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_command_exists_and_takes_its_options(name, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_command(command)


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_python_parses_and_imports_names_that_exist(name, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            absent = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not absent, f"{name} imports {absent}, which {node.module} does not have"


def test_linked_files_and_pictures_exist():
    assert {name: missing for name in DOCUMENTS if (missing := missing_links(name))} == {}


def test_named_files_exist():
    assert {name: missing for name in DOCUMENTS if (missing := missing_paths(name))} == {}


def test_tree_names_every_folder_and_script():
    (tree,) = code_blocks("CONTRIBUTING.md", "")
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    tops = {name.partition("/")[0] for name in files if not name.startswith(".") and (ROOT / name).exists()}
    assert named <= tops, "CONTRIBUTING.md names what the repository lacks"
    assert {top for top in tops if (ROOT / top).is_dir() or top.endswith(".py")} <= named, (
        "CONTRIBUTING.md leaves something out"
    )


@pytest.mark.parametrize(
    "name",
    [
        "docs/architecture.md",
        "docs/browser.md",
        "docs/bulk.md",
        "docs/evaluation.md",
        "docs/publishing.md",
        "docs/serving.md",
    ],
)
def test_measured_numbers_stand_in_rendered_tables_only(name):
    assert typed_measurements(name) == []


def test_every_diagram_is_whole():
    diagrams = code_blocks("docs/architecture.md", "mermaid")
    assert len(diagrams) >= 3
    for diagram in diagrams:
        assert diagram.startswith("flowchart "), diagram
        assert diagram.count("[") == diagram.count("]")
        assert diagram.count("subgraph ") == diagram.splitlines().count("  end") + diagram.splitlines().count("end")


def test_every_file_of_the_model_has_its_place_in_the_architecture():
    text = read("docs/architecture.md")
    files = [path.name for path in (ROOT / "modeling_dpmambair").glob("*.py") if path.name != "__init__.py"]
    assert [file for file in files if f"`{file}`" not in text] == []


@pytest.mark.ci
@pytest.mark.slow
def test_pictures_are_read_restored_and_written_as_the_document_says(tmp_path):
    degraded, restored = run_python_block("docs/pictures.md", tmp_path)
    assert (restored.mode, restored.size) == ("RGB", degraded.size)
    assert (np.asarray(restored) != np.asarray(degraded)).any()


@pytest.mark.ci
@pytest.mark.slow
def test_snow_that_is_kept_stays_as_the_document_says(tmp_path):
    degraded, kept = run_python_block("docs/pictures.md", tmp_path, 1, "snow.png", "still_snowing.png")
    restored = Restorer.from_pretrained(SHIPPED)(degraded)
    change, whole = (np.abs(np.asarray(each, int) - np.asarray(degraded)).mean() for each in (kept, restored))
    assert 0 < change < whole


def test_corpora_and_their_mixture_load_as_the_document_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "DATA/LOLdataset", *MINIATURES["lol train"])
    build(tmp_path / "DATA", {"degraded/a.png": "clean/a.jpg"})
    build_five_tasks(tmp_path / "DATA", "train")
    corpus, own, mixture = ({} for _ in range(3))
    for block, found in zip(code_blocks("docs/data.md", "python"), (corpus, own, mixture), strict=True):
        exec(block, found)
    assert set(corpus["pairs"]["task"]) == set(own["pairs"]["task"]) == {"low_light"}
    assert len(own["pairs"]) == 1
    assert mixture["patches"][0]["task"] in mixture["sets"]


def test_formats_of_the_document_are_those_that_are_read():
    rows = re.search(r"\| format \| channels .*\n\|.*\n((?:\|.*\n)+)", read("docs/pictures.md"))[1].splitlines()
    named = {name.strip().replace(" ", "") for row in rows for name in row.split("|")[1].split(",")}
    assert {SYNONYMS.get(name.upper(), name.upper()) for name in named - {"PGM"}} == set(FORMATS)


def test_table_of_the_service_names_every_option():
    rows = re.search(r"\| option \| meaning \|\n\|.*\n((?:\|.*\n)+)", read("docs/serving.md"))[1].splitlines()
    described = {option for row in rows for option in re.findall(r"(?<=`)--[\w-]+", row.split("|")[1])}
    assert described == {spelling for option in load_command("dpmambair.serve").params for spelling in option.opts}


@pytest.mark.ci
@pytest.mark.slow
def test_application_of_the_document_restores_a_posted_picture(tmp_path):
    (block,) = code_blocks("docs/serving.md", "python")
    post = "from starlette.testclient import TestClient\nanswer = TestClient(app).post('/restore', content=picture)\n"
    paths = ROOT / "examples" / "rain.png", tmp_path / "restored.png"
    picture = f"from pathlib import Path\npicture = Path({str(paths[0])!r}).read_bytes()\n"
    written = f"Path({str(paths[1])!r}).write_bytes(answer.raise_for_status().content)\n"
    code = block + picture + post + written
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    degraded, restored = (np.asarray(Image.open(path).convert("RGB")) for path in paths)
    assert restored.shape == degraded.shape
    assert (restored != degraded).any()
