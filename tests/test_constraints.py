"""The versions that continuous integration installs are some that the project allows, and all that it names."""

import os
import shutil
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.sources import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Built by their users: against the installed torch, or under a licence of their own.
UNPINNED = {"mamba-ssm", "bm3d", "dpmambair"}


def read_pins():
    """Return the pinned versions by name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def list_requirements():
    """Return all requirements of the project and of its extras."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    pins = read_pins()
    for requirement in list_requirements():
        name = canonicalize_name(requirement.name)
        assert name in UNPINNED or requirement.specifier.contains(pins[name]), requirement


def test_extras_that_name_one_package_allow_the_same_versions():
    """Otherwise an old release that one of them allows cannot be installed beside another."""
    found = {}
    for requirement in list_requirements():
        found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert {name: bounds for name, bounds in found.items() if len(bounds) > 1} == {}


# Their versions are dates, or rise four times a year, or change what we do not call.
UNBOUNDED = {"imagecodecs", "tifffile", "pyarrow"}


def test_what_users_install_has_upper_bounds():
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name in extras.keys() - {"dev"} for line in extras[name])]
    unbounded = {each.name for each in map(Requirement, lines) if "<" not in str(each.specifier)}
    assert unbounded == UNBOUNDED


@pytest.mark.parametrize("word", ["", "middle"])
def test_the_job_of_versions_explains_itself(word):
    done = subprocess.run(["bash", ROOT / ".ci/versions", *word.split()], capture_output=True, text=True)
    assert done.returncode != 0
    assert "newest" in done.stderr
    assert "oldest" in done.stderr
    assert "pythons" in done.stderr


# Stands for a Python and for that of the environment which it makes; says how each was called.
STAND_IN = """#!/bin/sh
echo "called: $*"
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
"""


@pytest.fixture
def try_pythons(tmp_path):
    """Run the job of Pythons where those of some versions alone are installed."""

    def run(*versions):
        for name in ("cp", "dirname", "mkdir", "mktemp", "rm", "sed"):
            (tmp_path / name).symlink_to(shutil.which(name))
        for version in versions:
            (tmp_path / f"python{version}").write_text(STAND_IN)
            (tmp_path / f"python{version}").chmod(0o755)
        command = [shutil.which("bash"), ROOT / ".ci/versions", "pythons"]
        environment = {**os.environ, "PATH": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


def test_pythons_that_are_missing_are_named_and_all_others_run_the_tests_of_ci(try_pythons):
    done = try_pythons("3.11", "3.13")
    assert done.returncode == 0, done.stderr
    expected = "installed: python3.11 python3.13; not installed here, so not tried: python3.12\n"
    assert done.stdout.count(expected) == 1
    assert done.stdout.count("called: -m pytest -m (not slow or ci) and not gpu ") == 2


def test_job_of_pythons_fails_where_there_is_none(try_pythons):
    done = try_pythons()
    assert done.returncode != 0
    assert "no Python that pyproject.toml names is installed here" in done.stderr
