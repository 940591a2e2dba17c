"""Where the shipped weights are found: in a checkout, and as a wheel holds them (tests/test_wheel.py installs one)."""

import runpy
import shutil

from dpmambair import shipped
from tests.sources import ROOT


def test_a_checkout_has_them_among_its_checkpoints():
    assert shipped.SHIPPED == ROOT / "checkpoints" / "dpmambair-light"
    assert (shipped.SHIPPED / "model.safetensors").is_file()


def test_an_installed_package_has_them_inside(tmp_path):
    copy = shutil.copy(shipped.__file__, tmp_path)
    (tmp_path / "weights").mkdir()
    assert runpy.run_path(copy)["SHIPPED"] == tmp_path.resolve() / "weights"
