"""Odd pictures through the command line: with strength 0 all come back as they were, and what is none is one line."""

import pytest

from tests.odd_pictures import ANIMATIONS, ODD_PICTURES, REFUSED, check_restored
from tests.restoring import run_command


@pytest.fixture(scope="module")
def results(model_folder, tmp_path_factory):
    """What one run over all of them says, and writes into `out`."""
    folder = tmp_path_factory.mktemp("odd")
    for odd in (*ODD_PICTURES, *ANIMATIONS, *REFUSED):
        (folder / f"{odd}{odd.suffix}").write_bytes(odd.content)
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
