"""The command that draws a preview of the degradations."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset_scripts.__main__ import app, draw_kinds


def run(*arguments):
    return CliRunner().invoke(app, ["preview", *map(str, arguments)])


def test_preview_writes_one_picture_and_nothing_else(folder, tmp_path):
    result = run(folder, "-o", tmp_path / "preview.png", "--severity", 0.5)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]
    with Image.open(tmp_path / "preview.png") as picture:
        picture.load()
        assert picture.height > picture.width > 480


def test_grid_has_a_clean_picture_and_each_severity_for_every_kind(dataset):
    titles = [axes.get_title() for axes in draw_kinds(dataset, (0.2, 1.0), seed=0).axes]
    assert titles[:6] == [
        "clean",
        "haze, severity 0.2",
        "haze, severity 1",
        "clean",
        "rain, severity 0.2",
        "rain, severity 1",
    ]
    assert len(titles) == 21


@pytest.mark.parametrize(
    ("source", "output", "severity", "message"),
    [
        ("missing", "a.png", 0.5, "error: `folders` must exist, got "),
        (".", "missing/a.png", 0.5, "error: `output` must lie in an existing folder, got "),
        (".", "a.xyz", 0.5, "error: Format 'xyz' is not supported"),
        (".", "a.png", 2, "error: `severity` must be in [0, 1], got 2.0"),
    ],
)
def test_failure_is_one_line_and_leaves_nothing(folder, tmp_path, source, output, severity, message):
    result = run(folder / source, "-o", tmp_path / output, "--severity", severity)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(message)
    assert not list(tmp_path.iterdir())
