"""The versions that continuous integration installs are some that the project allows, and all that it names."""

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


@pytest.mark.parametrize("word", ["", "middle"])
def test_the_job_of_versions_explains_itself(word):
    done = subprocess.run(["bash", ROOT / ".ci/versions", *word.split()], capture_output=True, text=True)
    assert done.returncode != 0
    assert "newest" in done.stderr
    assert "oldest" in done.stderr
