"""transformers' own common tests over our models, from the source distribution of the installed version.

Its wheel leaves them out; they are fetched for each run and never copied into this repository.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import transformers

from tests.modeling_dpmambair.transformers_suites import describe_subjects

ROOT = Path(__file__).parents[2]
# What the suites import and the source distribution leaves out: tests of other exporters, of generated text, a few
# settings that every configuration takes, and where downloaded pictures are kept.
LEFT_OUT = {
    "../fetch_hub_objects_for_ci.py": "def url_to_local_path(url): return url\n",
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/test_configuration_utils.py": (
        'config_common_kwargs = {"return_dict": False, "output_hidden_states": True, "dtype": "float16"}\n'
    ),
}
CASES = """
from tests.modeling_dpmambair.transformers_suites import make_cases, make_processor_case
from transformers_tests import test_configuration_common, test_image_processing_common, test_modeling_common

globals().update(make_cases(test_modeling_common, test_configuration_common))
TestProcessor = make_processor_case(test_image_processing_common)
"""


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    """A folder with transformers' tests as the package `transformers_tests`, and a file that runs them over ours."""
    folder = tmp_path_factory.mktemp("suites")
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--no-binary=:all:"]
    subprocess.run([*download, f"transformers=={transformers.__version__}"], cwd=folder, check=True)
    (archive,) = folder.glob("transformers-*.tar.gz")
    with tarfile.open(archive) as files:
        # Python 3.11.0 to 3.11.3 have no filters.
        files.extraction_filter = getattr(tarfile, "data_filter", None)
        files.extractall(folder)
    package = (folder / archive.name.removesuffix(".tar.gz") / "tests").rename(folder / "transformers_tests")
    (package / "__init__.py").touch()
    for name, text in LEFT_OUT.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    (folder / "test_cases.py").write_text(CASES)
    return folder


def run_suites(folder, name):
    """Run the suites over one subject; return for each test the outcome's tag, None if it passed, and its text."""
    report = folder / f"{name}.xml"
    # -c: the settings of this repository are not meant for them.
    options = ["-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider", f"--junitxml={report}", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    pytest_ = [sys.executable, "-m", "pytest", *options, f"test_cases.py::Test{name}"]
    subprocess.run(pytest_, cwd=folder, env=environment, check=False)
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        for result in [each for each in case if each.tag in ("failure", "error", "skipped")] or [None]:
            tag = None if result is None else result.tag
            outcomes.setdefault(case.get("name"), []).append((tag, "" if tag is None else result.get("message")))
    return outcomes


def list_failures(outcomes):
    return [
        f"{test}: {text.splitlines()[0]}"
        for test, results in outcomes.items()
        for tag, text in results
        if tag in ("failure", "error")
    ]


def list_passed(outcomes):
    return [test for test, results in outcomes.items() if any(tag is None for tag, _ in results)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "subject"), describe_subjects().items(), ids=list(describe_subjects()))
def test_models_pass_transformers_own_common_tests(suites, name, subject):
    outcomes = run_suites(suites, name)
    assert list_failures(outcomes) == []
    left_out = {test for test, results in outcomes.items() if results[0][1].startswith("not applicable: ")}
    assert left_out == set(subject.not_applicable)
    assert len(list_passed(outcomes)) > 40  # of some 55 that transformers does not skip for want of tokens or hardware


@pytest.mark.slow
def test_image_processor_passes_transformers_own_common_tests(suites):
    outcomes = run_suites(suites, "Processor")
    assert list_failures(outcomes) == []
    assert len(list_passed(outcomes)) > 15  # transformers skips those that compare two backends
