"""The calculated hours: by hand for a small schedule, and those that the document shows."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.files import RESULTS
from benchmarks.rendering import format_markdown
from benchmarks.scaling import Cost, app, assume_cost, count_area, scaling_grid
from training.recipe import Recipe, TrainingRecipe

ROOT = Path(__file__).resolve().parents[2]


def test_area_follows_both_schedules():
    schedules = {"patch_schedule": ((0, 10), (6, 20)), "batch_size": ((0, 3), (4, 2), (99, 1))}
    training = TrainingRecipe(steps=10, accumulation_steps=2, **schedules)
    assert count_area(training) == 2 * (4 * 3 * 100 + 2 * 2 * 100 + 4 * 2 * 400)


def test_hours_are_area_by_speed_and_the_exchange_of_gradients():
    training = TrainingRecipe(steps=3600, patch_schedule=((0, 10),))
    grid = scaling_grid(training, Cost(area=100, gradients=10**9))
    assert [row[1] for row in grid[1:]] == ["1.0", "1.0", "1.3"]
    assert [row[3] for row in grid[1:]] == ["1.00", "0.13", "0.02"]
    exchanges = [0, 2 * 7 / 8 * 4e9 / 200e9 * 1e3, 2 * 63 / 64 * 4e9 / 25e9 * 1e3]
    assert [float(row[4]) for row in grid[1:]] == pytest.approx(exchanges, abs=0.05)


def test_document_shows_the_table_of_the_papers_recipe():
    training = Recipe.from_file(ROOT / "configuration/train/restorer.json").training
    table = format_markdown(scaling_grid(training, assume_cost(json.loads((RESULTS / "cost.json").read_text()))))
    assert table in (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    assert CliRunner().invoke(app, []).stdout.strip() == table
    assert CliRunner().invoke(app, ["--measured", "9"]).stdout.strip() != table
