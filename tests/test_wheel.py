"""What `pip install` brings: source distribution and wheel, built from a clean checkout, away from that checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpmambair
from tests.documents import code_blocks
from tests.publishing import copy_checkout, run_python
from tests.sources import ROOT, list_sources

pytestmark = pytest.mark.slow

PACKAGES = {"dpmambair", "modeling_dpmambair"}
# What the build writes beside the files of the repository.
BUILT = {"PKG-INFO", "setup.cfg"}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The folder of both, the wheel made of the unpacked source distribution.

    They are built without isolation, since a test asks no package index.
    """
    place = tmp_path_factory.mktemp("distributions")
    checkout = copy_checkout(place / "checkout")
    built = run_python(["-m", "build", "--no-isolation", "--outdir", place / "dist", checkout], place, {})
    assert built.returncode == 0, built.stdout + built.stderr
    return place / "dist"


@pytest.fixture(scope="module")
def wheel(distributions):
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(distributions, tmp_path_factory):
    """The top folder of the unpacked source distribution."""
    (path,) = distributions.glob("*.tar.gz")
    place = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(path) as archive:
        # Python 3.11.0 to 3.11.3 have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(place)
    (top,) = place.iterdir()
    return top


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new virtual environment with the wheel; return its folder of programs and its folder of packages.

    Its dependencies come from the environment of the tests by a path. That folder's own .pth files, among them the one
    by which the tests find this checkout, are then not read: what is imported of ours is the wheel's.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    installed = run_python(install, folder, {})
    assert installed.returncode == 0, installed.stderr
    return folder / "bin", packages


@pytest.fixture
def run(environment, tmp_path):
    """Run a program of that environment in a folder, the root by default; return what it prints."""
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": ""}

    def run(program, *arguments, folder="/"):
        command = [environment[0] / program, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.ci
def test_wheel_holds_two_packages_and_the_shipped_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {path.as_posix() for path in list_sources("*.py") if path.parts[0] in PACKAGES}
    weights = ("ATTRIBUTION.csv", "README.md", "config.json", "model.safetensors", "preprocessor_config.json")
    assert names == sources | {f"dpmambair/weights/{name}" for name in weights}


def test_wheel_is_the_same_to_the_byte_wherever_and_whenever_it_is_built(tmp_path):
    contents = []
    for name in ("here", "there"):
        checkout = copy_checkout(tmp_path / name)
        for path in checkout.rglob("*"):
            os.utime(path, (len(name) * 10**8, len(name) * 10**8))
        command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / f"dist-{name}", checkout]
        built = run_python(command, tmp_path, {"SOURCE_DATE_EPOCH": "1750000000"})
        assert built.returncode == 0, built.stdout + built.stderr
        contents.append(next((tmp_path / f"dist-{name}").glob("*.whl")).read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.ci
def test_wheel_takes_no_name_that_others_may_want(environment):
    _, packages = environment
    ours = {path.name for path in packages.iterdir()} - {"dependencies.pth"}
    assert all(name.startswith(tuple(PACKAGES)) for name in ours), ours


@pytest.mark.ci
def test_folder_of_a_user_may_have_the_name_of_ours(run, tmp_path):
    # Without an __init__.py, as most have it: any installed package of the name goes before such a folder.
    for name in ("training", "configuration"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text("print(__file__)\n")
    code = "import dpmambair, modeling_dpmambair\nfrom training import mine\nfrom configuration import mine\n"
    printed = run("python", "-c", code, folder=tmp_path).splitlines()
    assert [Path(line).parent.name for line in printed] == ["training", "configuration"]


@pytest.mark.ci
def test_version_is_that_of_the_distribution(run):
    code = "import dpmambair, importlib.metadata as m; print(dpmambair.__version__, m.version('dpmambair'))"
    assert run("python", "-c", code).split() == [dpmambair.__version__] * 2


@pytest.mark.ci
def test_readme_lines_run_from_any_folder_with_the_weights_of_the_wheel(environment, run, tmp_path):
    lines = code_blocks("README.md", "python")[0]
    for name, folder in (("examples/rain.png", ROOT), ("restored.png", tmp_path)):
        assert f'"{name}"' in lines
        lines = lines.replace(f'"{name}"', repr(str(folder / name)))
    places = "import dpmambair, modeling_dpmambair\nprint(dpmambair.SHIPPED)\nprint(modeling_dpmambair.__file__)\n"
    printed = run("python", "-c", lines + places).splitlines()
    assert all(Path(place).is_relative_to(environment[1]) for place in printed), printed
    with Image.open(tmp_path / "restored.png") as restored, Image.open(ROOT / "examples/rain.png") as degraded:
        assert restored.size == degraded.size
        assert (np.asarray(restored) != np.asarray(degraded.convert("RGB"))).any()


@pytest.mark.ci
def test_command_finds_the_weights_of_the_wheel(run, tmp_path):
    with Image.open(ROOT / "examples/rain.png") as picture:
        picture.crop((0, 0, 64, 48)).save(tmp_path / "rain.png")
    run("dpmambair-restore", tmp_path / "rain.png", "--output", tmp_path / "restored")
    with Image.open(tmp_path / "restored/rain.png") as restored:
        assert restored.size == (64, 48)


@pytest.mark.ci
def test_command_that_serves_is_installed(run):
    assert "--max-megapixels" in run("dpmambair-serve", "--help")


@pytest.mark.ci
def test_source_distribution_holds_the_whole_repository(unpacked):
    files = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    of_the_build = {path for path in files if path.name in BUILT or path.parts[0].endswith(".egg-info")}
    assert files - of_the_build == set(list_sources())


def test_source_distribution_passes_tests_of_its_own(unpacked):
    tests = ["tests/test_house.py", "tests/test_readme.py", "tests/dpmambair"]
    done = run_python(["-m", "pytest", "-q", "-m", "not slow", *tests], unpacked, {"PYTHONPATH": str(unpacked)})
    assert done.returncode == 0, done.stdout + done.stderr
