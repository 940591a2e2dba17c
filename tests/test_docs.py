"""The documents beside README and card keep their word: commands, Python, files and headings are there."""

import ast
import http.client
import importlib
import io
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.documents import (
    ROOT,
    all_commands,
    check_command,
    code_blocks,
    missing_links,
    missing_paths,
    read,
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
    "name", ["docs/architecture.md", "docs/evaluation.md", "docs/publishing.md", "docs/serving.md"]
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


@pytest.mark.slow
def test_server_of_the_document_restores_a_posted_picture(tmp_path):
    for shipped in ("checkpoints", "modeling_dpmambair"):
        (tmp_path / shipped).symlink_to(ROOT / shipped)
    (server,) = code_blocks("docs/serving.md", "python")
    (tmp_path / "serve.py").write_text(server, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-u", "serve.py", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        address = process.stdout.readline().split()[-1]
        degraded = (ROOT / "examples" / "rain.png").read_bytes()
        with urllib.request.urlopen(address, degraded, timeout=300) as answer:
            assert answer.headers["Content-Type"] == "image/png"
            restored = np.asarray(Image.open(io.BytesIO(answer.read())))
        original = np.asarray(Image.open(io.BytesIO(degraded)).convert("RGB"))
        assert restored.shape == original.shape
        assert (restored != original).any()
        with pytest.raises(urllib.error.HTTPError, match="422"):
            urllib.request.urlopen(address, b"no picture", timeout=300)
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=300)
        connection.request("POST", "/", headers={"Content-Length": "20000001"})
        assert connection.getresponse().status == 413
        connection.close()
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()
