"""What the exporting command refuses, makes and leaves behind; the files themselves are made in the slow tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

import export_model
from dpmambair.shipped import SHIPPED
from export_model import Agreement, check, compare, draw_picture, open_exported, open_onnx, trace
from modeling_dpmambair import DPMambaIRModel
from tests.documents import read, run_python_block
from tests.modeling_dpmambair.models import pictures, small_model
from tests.test_house import ROOT

SIZES = [(64, 64), (56, 40), (61, 83)]

# Runs in a process of its own, in which nothing but onnxruntime, numpy and the standard library can be imported.
ALONE = """
import importlib.abc, sys
ALLOWED = {"onnxruntime", "numpy"}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocker())
import numpy as np, onnxruntime
model, source, target = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
restored, embedding = session.run(["reconstruction", "degradation_embedding"], {"pixel_values": np.load(source)})
np.save(target, restored)
present = {"torch", "transformers", "modeling_dpmambair", "onnx"} & set(sys.modules)
assert not present, present
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a small model."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    small_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shipped():
    return DPMambaIRModel.from_pretrained(SHIPPED).eval()


@pytest.fixture(scope="module")
def restorer_onnx(tmp_path_factory):
    """The ONNX model of the shipped weights, made by the command."""
    path = tmp_path_factory.mktemp("exported") / "made" / "restorer.onnx"
    result = run(SHIPPED, "-o", path)
    assert result.exit_code == 0, result.stderr
    assert list(path.parent.iterdir()) == [path]
    return path


def run(*arguments):
    return CliRunner().invoke(export_model.main, [*map(str, arguments)])


def restore(model, degraded, **options):
    with torch.no_grad():
        return model(degraded, **options)


def wrong(**_):
    return dict.fromkeys(export_model.OUTPUTS, torch.tensor(torch.nan))


def list_operators(graph):
    """Return the operators of a graph and of those inside its nodes."""
    inner = (each.g for node in graph.node for each in node.attribute if each.type == onnx.AttributeProto.GRAPH)
    return {node.op_type for node in graph.node}.union(*map(list_operators, inner))


# What is refused before anything is computed


@pytest.mark.parametrize(("arguments", "rule"), [
    (["-o", "a.pt2"], "`--output` must end in .onnx with --format onnx, got a.pt2; rename it"),
    (["-o", "a.onnx", "--format", "aoti"], "`--output` must end in .pt2 with --format aoti, got a.onnx; rename it"),
    (["-o", "a.pt2", "--format", "torch-export", "--int8", "weights"],
     "`--int8` must go with --format onnx alone, got --format torch-export and --int8; leave one out"),
    (["-o", "a.onnx", "--dtype", "float16", "--int8", "dynamic"],
     "`--int8` must go with --format onnx alone, got --format onnx and --dtype and --int8; leave one out"),
    (["-o", "parts", "--parts", "--strength"],
     "`--parts` must go with --format onnx and --dtype alone, got more; leave the others out"),
])  # fmt: skip
def test_options_that_do_not_go_together_are_refused(small, tmp_path, monkeypatch, arguments, rule):
    monkeypatch.chdir(tmp_path)
    result = run(small, *arguments)
    assert (result.exit_code, result.stderr) == (2, f"error: {rule}\n")
    assert list(tmp_path.iterdir()) == []


def test_folder_without_a_model_is_refused(tmp_path):
    result = run(tmp_path, "-o", tmp_path / "a.onnx")
    assert result.exit_code == 2
    assert "`DIR` must be a folder with a model's config.json" in result.stderr


def test_model_that_needs_more_than_a_picture_is_refused(tmp_path):
    small_model(embedding_source="given").save_pretrained(tmp_path / "given")
    result = run(tmp_path / "given", "-o", tmp_path / "a.onnx")
    assert result.exit_code == 2
    assert "it is no restorer with an extractor of its own" in result.stderr


def test_compiling_without_a_compiler_is_refused(small, tmp_path, monkeypatch):
    def find_none():
        raise export_model.InvalidCxxCompiler

    monkeypatch.setattr(export_model, "trace", lambda *_, **__: None)
    monkeypatch.setattr(export_model, "get_cpp_compiler", find_none)
    result = run(small, "--format", "aoti", "-o", tmp_path / "a.pt2")
    assert result.exit_code == 2
    assert "`--format` must be another without a C++ compiler, got aoti; install g++" in result.stderr


# The check


def test_model_agrees_with_itself_also_with_strength():
    model = small_model()
    portable = export_model.PortableRestorer(model)
    assert compare(portable, model, has_strength=False) == Agreement(0.0, torch.inf)
    assert compare(portable, model, has_strength=True) == Agreement(0.0, torch.inf)


def test_psnr_of_a_known_offset():
    model = small_model()

    def restore_brighter(pixel_values):
        output = restore(model, pixel_values)
        return {"reconstruction": output.reconstruction + 0.1, "degradation_embedding": output.degradation_embedding}

    found = compare(restore_brighter, model, has_strength=False)
    assert found == pytest.approx((0.1, 20.0), rel=1e-4)


@pytest.mark.parametrize(("found", "is_exact", "rule"), [
    (Agreement(0.0011, 90.0), True, "must agree to 0.001, got 0.0011"),
    (Agreement(torch.nan, torch.nan), True, "must agree to 0.001, got nan"),
    (Agreement(0.1, 39.9), False, "must agree to 40 dB, got 39.9; export it in float32"),
    (Agreement(torch.nan, torch.nan), False, "must agree to 40 dB, got nan"),
])  # fmt: skip
def test_disagreement_is_an_error(found, is_exact, rule):
    with pytest.raises(ArithmeticError, match=rule):
        check(found, is_exact)


def test_agreement_is_none():
    check(Agreement(0.0009, 70.0), is_exact=True)
    check(Agreement(0.1, 40.1), is_exact=False)


def test_pictures_to_check_with_are_pictures_and_always_the_same():
    picture = draw_picture(61, 83)
    assert picture.shape == (1, 3, 61, 83)
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < 0.2
    assert 0.8 < picture.max() <= 1
    assert torch.equal(picture, draw_picture(61, 83))


def test_file_that_fails_its_check_leaves_the_old_one_in_place(small, tmp_path, monkeypatch):
    monkeypatch.setattr(export_model, "trace", lambda *_, **__: None)
    monkeypatch.setattr(export_model, "write_onnx", lambda _, path: path.write_text("new"))
    monkeypatch.setattr(export_model, "open_exported", lambda *_: wrong)
    target = tmp_path / "restorer.onnx"
    target.write_text("old")
    result = run(small, "-o", target)
    assert result.exit_code == 1
    assert "must agree to 0.001, got nan" in result.stderr
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


# ONNX


@pytest.mark.slow
@pytest.mark.parametrize("size", [*SIZES, (8, 8), (5, 40)], ids=str)
def test_onnx_agrees_with_the_model(restorer_onnx, shipped, size):
    degraded = pictures(1, *size)
    expected, found = restore(shipped, degraded), open_onnx(restorer_onnx)(pixel_values=degraded)
    assert (expected.reconstruction - degraded).abs().max() > 0.05
    torch.testing.assert_close(found["reconstruction"], expected.reconstruction, rtol=0, atol=1e-3)
    torch.testing.assert_close(found["degradation_embedding"], expected.degradation_embedding, rtol=0, atol=1e-3)


@pytest.mark.ci
@pytest.mark.slow
def test_onnx_runs_where_only_onnxruntime_and_numpy_are(restorer_onnx, shipped, tmp_path):
    degraded = pictures(1, 61, 83)
    np.save(tmp_path / "degraded.npy", degraded.numpy())
    files = [str(restorer_onnx), "degraded.npy", "restored.npy"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", ALONE, *files], cwd=tmp_path, env=environment, check=True)
    restored = torch.from_numpy(np.load(tmp_path / "restored.npy"))
    torch.testing.assert_close(restored, restore(shipped, degraded).reconstruction, rtol=0, atol=1e-3)


@pytest.mark.ci
@pytest.mark.slow
def test_lines_of_the_document_restore_a_picture(restorer_onnx, tmp_path):
    (tmp_path / "restorer.onnx").symlink_to(restorer_onnx)
    degraded, restored = run_python_block("docs/export.md", tmp_path, 0)
    assert restored.size == degraded.size
    assert (np.asarray(restored) != np.asarray(degraded)).mean() > 0.1


@pytest.mark.slow
def test_onnx_is_of_the_standard_only_and_says_nothing_of_this_machine(restorer_onnx):
    model = onnx.load(restorer_onnx)
    onnx.checker.check_model(model, full_check=True)
    assert {each.domain for each in model.opset_import} == {""}
    assert not model.functions
    shapes = {each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in (
        *model.graph.input, *model.graph.output
    )}  # fmt: skip
    batch, channels, height, width = shapes["pixel_values"]
    assert (batch, channels) == (1, 3)
    assert isinstance(height, str)
    assert isinstance(width, str)
    assert shapes["reconstruction"] == shapes["pixel_values"]
    content = restorer_onnx.read_bytes()
    assert str(ROOT).encode() not in content
    assert len(content) < 1.3 * (SHIPPED / "model.safetensors").stat().st_size


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of onnxruntime's quantizers
@pytest.mark.parametrize("option", ["float16", "bfloat16", "weights"])
def test_smaller_weights_hold_and_save_space(restorer_onnx, shipped, tmp_path, option):
    path = Path(shutil.copy(restorer_onnx, tmp_path))
    if option == "weights":
        export_model.quantize(path, option)
    else:
        export_model.store_halved(path, option)
    assert path.stat().st_size < 0.85 * restorer_onnx.stat().st_size
    assert list(tmp_path.iterdir()) == [path]
    found = compare(open_onnx(path), shipped, has_strength=False)
    assert found.deviation > 1e-6
    check(found, is_exact=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of onnxruntime's quantizers
@pytest.mark.parametrize(("option", "added", "domains"), [
    ("float16", set(), {""}),
    ("bfloat16", set(), {""}),
    ("weights", {"MatMulNBits"}, {"", "com.microsoft"}),
    ("dynamic", {"DynamicQuantizeLinear", "MatMulInteger"}, {""}),
])  # fmt: skip
def test_smaller_weights_add_the_operators_that_the_document_names(restorer_onnx, tmp_path, option, added, domains):
    path = Path(shutil.copy(restorer_onnx, tmp_path))
    change = export_model.quantize if option in ("weights", "dynamic") else export_model.store_halved
    change(path, option)
    model = onnx.load(path)
    assert list_operators(model.graph) - list_operators(onnx.load(restorer_onnx).graph) == added
    assert {each.domain for each in model.opset_import} == domains


@pytest.mark.slow
def test_document_lists_the_opset_and_the_operators_of_every_file(restorer_onnx, shipped, tmp_path):
    text = read("docs/export.md")
    version = re.search(r"With the shipped weights and torch ([\d.]+) these are used", text)[1]
    if not torch.__version__.startswith(f"{version}."):
        pytest.skip(f"the document is about torch {version}")
    listed = re.findall(r"^\| `(\w+\.onnx)` \| (\d+) \| (.+) \|$", text, re.MULTILINE)
    shutil.copy(restorer_onnx, tmp_path)
    with export_model.quiet_exporters():
        export_model.write_parts(shipped, tmp_path)
    models = {name: onnx.load(tmp_path / name) for name, *_ in listed}
    assert {path.name for path in tmp_path.glob("*.onnx")} == models.keys()
    found = [
        (name, str(model.opset_import[0].version), ", ".join(sorted(list_operators(model.graph))))
        for name, model in models.items()
    ]
    assert found == listed


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parts_agree_with_the_model_whole_and_in_tiles(small, tmp_path, dtype):
    result = run(small, "--parts", "--dtype", dtype, "-o", tmp_path / "parts")
    assert result.exit_code == 0, result.stderr
    names = {"measure.onnx", "embed.onnx", "restore.onnx", "parts.json"}
    assert {path.name for path in (tmp_path / "parts").iterdir()} == names
    for path in (tmp_path / "parts").glob("*.onnx"):
        assert {node.domain for node in onnx.load(path).graph.node} == {""}


# torch.export


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, pytest.param(32, marks=pytest.mark.ci)])
def test_traced_program_takes_strength_and_sizes_and_survives_its_file(window, tmp_path):
    torch.manual_seed(0)
    model = small_model({"window": window}).eval()
    program = trace(export_model.PortableRestorer(model), has_strength=True)
    torch.export.save(program, tmp_path / "restorer.pt2")
    assert str(ROOT).encode() not in (tmp_path / "restorer.pt2").read_bytes()
    restore_exported = open_exported(tmp_path / "restorer.pt2", "torch-export")
    for size in [*SIZES, (24, 30)]:  # of one to six windows
        degraded = pictures(1, *size)
        found = restore_exported(pixel_values=degraded, strength=torch.tensor(0.3))
        expected = restore(model, degraded, strength=0.3)
        torch.testing.assert_close(found["reconstruction"], expected.reconstruction, rtol=0, atol=1e-5)
        torch.testing.assert_close(found["degradation_embedding"], expected.degradation_embedding)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_package_agrees_with_the_model(small, tmp_path):
    path, model = tmp_path / "compiled.pt2", DPMambaIRModel.from_pretrained(small).eval()
    result = run(small, "--format", "aoti", "-o", path)
    assert result.exit_code == 0, result.stderr
    restore_compiled = open_exported(path, "aoti")
    for size in SIZES:
        degraded = pictures(1, *size)
        found, expected = restore_compiled(pixel_values=degraded), restore(model, degraded)
        torch.testing.assert_close(found["reconstruction"], expected.reconstruction, rtol=0, atol=1e-4)
