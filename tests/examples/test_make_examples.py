"""The example pictures: what the command makes is what lies in the folder."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.degradations import KINDS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    runpy.run_path(str(EXAMPLES / "make_examples.py"))["make_examples"](folder)
    return folder


def test_there_is_one_example_of_each_kind_and_a_mixed_one(made):
    assert {path.stem for path in made.iterdir()} == {*KINDS, "mixed"}


@pytest.mark.parametrize("name", [*KINDS, "mixed"])
def test_the_kept_example_is_what_the_command_makes(made, name):
    kept, fresh = (np.asarray(Image.open(folder / f"{name}.png"), np.float64) for folder in (EXAMPLES, made))
    # Another version of a codec may round differently; another draw differs by whole streaks and grains.
    assert np.abs(kept - fresh).mean() < 0.25


def test_examples_are_small_files():
    assert all(path.stat().st_size < 250_000 for path in EXAMPLES.glob("*.png"))
