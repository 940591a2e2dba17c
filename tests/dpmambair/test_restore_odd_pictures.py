"""Odd pictures through the command line: with strength 0 all come back as they were, and what is none is one line."""

import pytest

from modeling_dpmambair import DPMambaIROutput, Restorer
from tests.odd_pictures import ANIMATIONS, ODD_PICTURES, REFUSED, check_restored
from tests.restoring import run_command


@pytest.fixture(scope="module")
def results(model_folder, tmp_path_factory):
    """What one run over all of them says, and writes into `out`.

    The network is left out: `test_strength_scales_the_correction` shows that with strength 0 it gives what went in.
    """

    def give_back(self, pixel_values, *_, **__):
        return DPMambaIROutput(reconstruction=pixel_values.clone())

    folder = tmp_path_factory.mktemp("odd")
    for odd in (*ODD_PICTURES, *ANIMATIONS, *REFUSED):
        (folder / f"{odd}{odd.suffix}").write_bytes(odd.content)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Restorer, "restore", give_back)
        return run_command(model_folder, folder, "-o", folder / "out", "--strength", 0), folder


@pytest.mark.parametrize("odd", [*ODD_PICTURES, *ANIMATIONS], ids=str)
def test_an_odd_picture_comes_back_in_its_own_format(results, odd):
    _, folder = results
    check_restored(odd, (folder / "out" / f"{odd}{odd.suffix}").read_bytes())


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_what_is_no_picture_is_one_line(results, refused):
    result, folder = results
    path = folder / f"{refused}{refused.suffix}"
    (line,) = [line for line in result.stderr.splitlines() if line.startswith(f"{path}: ")]
    assert line.isprintable()
    assert not (folder / "out" / path.name).exists()


def test_nothing_else_is_said(results):
    result, _ = results
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == len(REFUSED)
