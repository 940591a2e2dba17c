"""What `pip install` brings: the wheel, built from a clean checkout, in an environment that knows nothing of it."""

import site
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpmambair.shipped import SHIPPED
from tests.documents import PROJECT, ROOT, code_blocks
from tests.publishing import copy_checkout, run_python

pytestmark = pytest.mark.slow

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
WEIGHTS = SHIPPED.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel; built without isolation, since a test asks no package index."""
    place = tmp_path_factory.mktemp("wheel")
    checkout = copy_checkout(place / "checkout")
    built = run_python(["-m", "build", "--wheel", "--no-isolation", "--outdir", place / "dist", checkout], place, {})
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (place / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new virtual environment with the wheel; return its folder of programs and its folder of packages.

    Its dependencies come from the environment of the tests by a path. That folder's own .pth files, among them the one
    by which the tests find this checkout, are then not read: what is imported of ours is the wheel's.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text(f"{site.getsitepackages()[0]}\n")
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    installed = run_python(install, folder, {})
    assert installed.returncode == 0, installed.stderr
    return folder / "bin", packages


def run(arguments, folder):
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "PATH": ""}
    return subprocess.run(list(map(str, arguments)), cwd=folder, env=settings, capture_output=True, text=True)


def test_wheel_holds_code_configuration_and_weights_and_no_test_or_training_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    scripts = {f"{name}.py" for name in SETUPTOOLS["py-modules"]}
    packages = {"modeling_dpmambair", "dataset_scripts", "restoration_metrics", "training"}
    data = {"configuration", "checkpoints"}
    assert {name.partition("/")[0] for name in names} == scripts | packages | data
    assert {Path(name).suffix for name in names if name.partition("/")[0] in packages | scripts} == {".py"}
    assert {Path(name).suffix for name in names if name.startswith("configuration/")} <= {".json", ".yaml"}
    shipped = {f"{WEIGHTS}/{name}" for name in ("config.json", "model.safetensors", "preprocessor_config.json")}
    assert {name for name in names if name.startswith("checkpoints/")} - {f"{WEIGHTS}/README.md"} == shipped
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "modeling_dpmambair").glob("*.py")}
    assert {name for name in names if name.startswith("modeling_dpmambair/")} == sources


def test_every_script_is_a_module_of_the_wheel_but_those_that_need_a_checkout():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert set(SETUPTOOLS["py-modules"]) == scripts - {"publish_hub"}
    assert {entry.partition(":")[0] for entry in PROJECT["scripts"].values()} <= scripts


def test_readme_lines_run_elsewhere_with_the_weights_of_the_wheel(environment, tmp_path):
    programs, packages = environment
    (tmp_path / "checkpoints").symlink_to(packages / "checkpoints")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    origin = "import modeling_dpmambair\nprint(modeling_dpmambair.__file__)\n"
    done = run([programs / "python", "-P", "-c", code_blocks("README.md", "python")[0] + origin], tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(packages)
    with Image.open(tmp_path / "restored.png") as restored, Image.open(ROOT / "examples/rain.png") as degraded:
        assert restored.size == degraded.size
        assert (np.asarray(restored) != np.asarray(degraded.convert("RGB"))).any()


def test_command_finds_the_weights_beside_itself(environment, tmp_path):
    programs, _ = environment
    with Image.open(ROOT / "examples/rain.png") as picture:
        picture.crop((0, 0, 64, 48)).save(tmp_path / "rain.png")
    done = run([programs / "dpmambair-restore", "rain.png", "--output", "restored"], tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "restored/rain.png") as restored:
        assert restored.size == (64, 48)
