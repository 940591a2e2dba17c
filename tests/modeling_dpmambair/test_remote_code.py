"""What a stranger gets: a saved folder, transformers, and none of our packages."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import modeling_dpmambair
from modeling_dpmambair import (
    DegradationExtractorForDescription,
    DPMambaIRImageProcessor,
    ImageRestorationPipeline,
    layers_dpmambair,
    operators_dpmambair,
    scan_backend,
)
from tests.modeling_dpmambair.models import pictures, randomized, small_extractor_config, small_model
from tests.publishing import STAYING

SOURCES = {path.name for path in Path(modeling_dpmambair.__file__).parent.glob("*.py")} - STAYING
ABOVE_MODEL = {
    "pipeline_dpmambair.py", "restorer_dpmambair.py", "large_strips_dpmambair.py", "large_plan_dpmambair.py",
    "large_pictures_dpmambair.py", "large_squares_dpmambair.py", "steering_dpmambair.py",
}  # fmt: skip
ABOVE_EXTRACTOR = (
    ABOVE_MODEL
    | {"modeling_dpmambair.py", "block_dpmambair.py", "image_processing_dpmambair.py"}
    | {name for name in SOURCES if name.startswith("picture_")}
)
RESTORER, EXTRACTOR = "modeling_dpmambair.DPMambaIRModel", "modeling_degradation_extractor.DegradationExtractorModel"

# The stranger: no package of ours, wherever it might be installed.
PREAMBLE = """
import json, sys, warnings

class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = {"modeling_dpmambair", "dpmambair", "dataset_scripts", "training", *sys.argv[3:]}
sys.meta_path.insert(0, Absent)

import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageToImage, pipeline
from transformers.utils import logging

logging.disable_progress_bar()
folder, again = sys.argv[1:3]
given = load_file(f"{folder}/given.safetensors")
trust = {"trust_remote_code": True}

@torch.no_grad()
def check(model):
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    # Not to the bit: products round differently with the number of threads and the alignment of mapped weights.
    torch.testing.assert_close(model(given["degraded"]).reconstruction, given["restored"], rtol=0, atol=2e-6)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A restorer that changes pictures, saved with processor and pipeline."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("published") / "dpmambair-small"
    model = small_model(has_description=True)
    ImageRestorationPipeline(model, image_processor=DPMambaIRImageProcessor()).save_pretrained(place)
    model.extractor.save_pretrained(place / "extractor")
    return place


def keep_expectations(folder):
    """Write what the stranger must find beside the weights."""
    torch.manual_seed(1)
    model, degraded = modeling_dpmambair.DPMambaIRModel.from_pretrained(folder), pictures(2, 16, 24)
    with torch.no_grad():
        restored = model(degraded).reconstruction
    assert (restored - degraded).abs().max() > 0.1
    restorer = ImageRestorationPipeline(model, image_processor=DPMambaIRImageProcessor())
    picture = restorer.image_processor.post_process(degraded)[0]
    picture.save(folder / "degraded.png")
    restorer(picture).save(folder / "restored.png")
    save_file({"degraded": degraded, "restored": restored}, folder / "given.safetensors")


def run_stranger(folder, tmp_path, script, absent=(), importable=False):
    """Run a script in a fresh interpreter elsewhere and return what it prints as JSON on its last line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DPMAMBAIR"))}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if importable:
        environment["PYTHONPATH"] = str(Path(modeling_dpmambair.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), folder, tmp_path / "again", *absent],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def python_files(folder):
    return {path.name for path in Path(folder).glob("*.py")}


def auto_map(folder, file="config.json"):
    return json.loads((Path(folder) / file).read_text())["auto_map"]


# What is saved


def test_folder_carries_every_file_of_the_code_and_nothing_else(folder):
    for file in SOURCES:
        saved = (folder / file).read_bytes()
        assert saved == (Path(modeling_dpmambair.__file__).parent / file).read_bytes()
    assert python_files(folder) == SOURCES
    assert not list(folder.rglob("__pycache__"))


def test_folder_names_the_classes_of_every_auto_class(folder):
    config = "configuration_dpmambair.DPMambaIRConfig"
    assert auto_map(folder) == {"AutoConfig": config, "AutoModel": RESTORER, "AutoModelForImageToImage": RESTORER}
    processor = {"AutoImageProcessor": "image_processing_dpmambair.DPMambaIRImageProcessor"}
    assert auto_map(folder, "preprocessor_config.json") == processor


def test_model_and_processor_without_the_pipeline_carry_their_code_too(tmp_path):
    small_model().save_pretrained(tmp_path)
    DPMambaIRImageProcessor().save_pretrained(tmp_path)
    assert python_files(tmp_path) == SOURCES - ABOVE_MODEL


def test_extractor_carries_its_own_files_and_names_itself(folder, tmp_path):
    assert python_files(folder / "extractor") == SOURCES - ABOVE_EXTRACTOR
    config = "configuration_dpmambair.DegradationExtractorConfig"
    assert auto_map(folder / "extractor") == {"AutoConfig": config, "AutoModel": EXTRACTOR}
    randomized(DegradationExtractorForDescription(small_extractor_config())).save_pretrained(tmp_path)
    assert auto_map(tmp_path)["AutoModel"].endswith(".DegradationExtractorForDescription")


def test_copy_of_a_hub_model_names_its_own_code(tmp_path):
    model = small_model()
    model.config.auto_map = dict.fromkeys(("AutoModel", "AutoModelForImageToImage"), f"org/repo--{RESTORER}")
    model.save_pretrained(tmp_path)
    assert not any("--" in reference for reference in auto_map(tmp_path).values())


# What is loaded

LOAD = (
    PREAMBLE
    + """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    model = AutoModel.from_pretrained(folder, **trust)
    check(model)
    restorer = AutoModelForImageToImage.from_pretrained(folder, **trust)
    check(restorer)
slow = [str(each.message) for each in caught if "plain torch" in str(each.message)]

extractor = AutoModel.from_pretrained(f"{folder}/extractor", **trust)
with torch.no_grad():
    embedding, expected = (each(given["degraded"]).degradation_embedding for each in (extractor, model))
assert torch.equal(embedding, expected)
assert type(AutoImageProcessor.from_pretrained(folder, **trust)).__module__.startswith("transformers_modules.")
restore = pipeline("image-restoration", model=folder, **trust)
restore(f"{folder}/degraded.png").save("restored.png")

# Everything that was loaded carries its code on, and a second copy of the code stands beside the first.
restore.save_pretrained(again)
extractor.save_pretrained(f"{again}/extractor")
check(AutoModel.from_pretrained(again, **trust))
check(model)
labels = given["restored"].flip(0)
model(given["degraded"], labels=labels).loss.backward()
assert all(each.grad is not None for each in model.parameters() if each.requires_grad)
AutoModel.from_pretrained(f"{again}/extractor", **trust)
print(json.dumps({"warnings": slow, "numba": "numba" in sys.modules}))
"""
)


def check_copy(folder, tmp_path):
    with Image.open(folder / "restored.png") as expected, Image.open(tmp_path / "restored.png") as restored:
        assert restored.tobytes() == expected.tobytes()
    assert python_files(tmp_path / "again") == SOURCES
    assert python_files(tmp_path / "again" / "extractor") == SOURCES - ABOVE_EXTRACTOR
    assert auto_map(tmp_path / "again") == auto_map(folder)
    assert not list((tmp_path / "again").rglob("__pycache__"))


@pytest.mark.ci
@pytest.mark.slow
def test_stranger_without_optional_packages_restores_the_same_with_one_warning(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(layers_dpmambair, "gelu_gate_cpu", None)
    with scan_backend("chunked"):
        keep_expectations(folder)
    found = run_stranger(
        folder, tmp_path, LOAD, absent=["numba", "llvmlite", "imagecodecs", "tifffile", "pillow_heif"]
    )
    assert found["warnings"] == ["the selective scan runs in plain torch on cpu, which is slow: pip install numba"]
    assert not found["numba"]
    check_copy(folder, tmp_path)


@pytest.mark.slow
def test_stranger_restores_the_same_bits(folder, tmp_path):
    keep_expectations(folder)
    assert run_stranger(folder, tmp_path, LOAD) == {"warnings": [], "numba": True}
    check_copy(folder, tmp_path)


def test_each_copy_of_the_code_names_its_operators_apart():
    names = set()
    for module in ("modeling_dpmambair", "transformers_modules.org.model.a1", "transformers_modules.org.model.b2"):
        spec = importlib.util.spec_from_file_location(f"{module}.operators_dpmambair", operators_dpmambair.__file__)
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        names.add(copy.operator_name("selective_scan"))
    assert "dpmambair::selective_scan" in names  # files of exported programs hold the package's name
    assert len(names) == 3


BESIDE = (
    PREAMBLE
    + """
absent.clear()
import shutil
from transformers.dynamic_module_utils import get_class_from_dynamic_module

order = [None, folder, again]  # None: the package
shutil.copytree(folder, again)
if len(sys.argv) > 3:
    order.reverse()
models = []
for place in order:
    if place is None:
        from modeling_dpmambair import DPMambaIRModel as restorer
    else:
        restorer = get_class_from_dynamic_module("modeling_dpmambair.DPMambaIRModel", place)
    models.append(restorer.from_pretrained(place or folder))
assert len({type(model) for model in models}) == 3
gradients = []
for model in [*models, *models]:
    with torch.no_grad():
        torch.testing.assert_close(model(given["degraded"]).reconstruction, given["restored"], rtol=0, atol=2e-6)
    model.zero_grad()
    model(given["degraded"], labels=given["restored"].flip(0)).loss.backward()
    gradients.append(model.network.conv_in.weight.grad.clone())
for first, later in zip(gradients[:3], gradients[3:]):
    assert torch.equal(first, later)
    # Not to the bit between copies, for the reason that `check` gives.
    torch.testing.assert_close(first, gradients[0], rtol=0, atol=5e-6 * gradients[0].abs().max().item())
print(json.dumps(len(gradients)))
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(), ("reversed",)], ids=["package first", "package last"])
def test_package_and_two_copies_of_it_live_in_one_process(folder, tmp_path, order):
    keep_expectations(folder)
    assert run_stranger(folder, tmp_path, BESIDE, absent=order, importable=True) == 6
