"""What `import dpmambair` gives: version, weights' place and restorer, and no torch before it is wanted."""

import re
import subprocess
import sys
from typing import Any

import pytest

import dpmambair
import modeling_dpmambair
from tests.sources import ROOT


def test_importing_the_package_brings_no_torch():
    code = "import sys, dpmambair; print(sorted({'torch', 'transformers', 'modeling_dpmambair'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_restorer_is_that_of_the_model():
    assert dpmambair.Restorer is modeling_dpmambair.Restorer


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="module 'dpmambair' has no attribute 'Restore'"):
        dpmambair.Restore  # noqa: B018


def test_every_public_name_can_be_imported():
    names: dict[str, Any] = {}
    exec("from dpmambair import *", names)
    assert set(dpmambair.__all__) <= set(names)


def test_version_is_that_of_the_citation():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [dpmambair.__version__]
