"""What weights learned from, as their logs tell: counted step by step, and beside the trainer's own count."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.files import RESULTS
from benchmarks.training_runs import count_run, main
from benchmarks.training_runs_table import training_runs_grid
from dpmambair.shipped import SHIPPED

LOGS = sorted((SHIPPED / "training").glob("*/log.jsonl"))


def run(*arguments):
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_run(folder, training, last):
    folder.mkdir(parents=True)
    recipe = {"model": {"stage": "describe"}, "data": {"clean_dirs": ["pictures"]}, "training": training}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    records = [{"step": 1, "seconds": 1.0}, {"step": last, "seconds": 5400.0}, {"step": last, "gain_rain": 1.0}]
    (folder / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def test_patches_and_pixels_are_those_of_every_step_until_the_last(tmp_path):
    training = {
        "steps": 60,
        "accumulation_steps": 2,
        "batch_size": [[0, 8], [30, 4]],
        "patch_schedule": [[0, 64], [5, 128]],
        "patch_cycle": 7,
    }
    write_run(tmp_path / "first", training, 41)
    batches = [(2 * (8 if step < 30 else 4), 64 if step % 7 < 5 else 128) for step in range(41)]
    assert count_run(tmp_path / "first") == {
        "name": "first",
        "stage": "describe",
        "steps": 41,
        "patches": sum(number for number, _ in batches),
        "pixels": sum(number * side**2 for number, side in batches),
        "hours": 1.5,
    }


def count_logged(log):
    """Add up what the trainer logged: the patches a second of each stretch, for as long as it took."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    stretches = [record for record in records if "samples_per_second" in record]
    seconds = np.diff([0.0, *(record["seconds"] for record in stretches)])
    return float(seconds @ [record["samples_per_second"] for record in stretches])


def test_shipped_runs_learned_from_as_many_patches_as_the_trainer_counted():
    counts = {log.parent.name: (count_logged(log), count_run(log.parent)["patches"]) for log in LOGS}
    assert {name: pair for name, pair in counts.items() if pair[0] != pytest.approx(pair[1], rel=0.02)} == {}


def test_committed_counts_are_those_of_the_shipped_logs(tmp_path):
    committed = json.loads((RESULTS / "training_runs.json").read_text())
    on_gpu = [name for one in committed["runs"] if one["device"] == "GPU" for name in ("--gpu", one["name"])]
    result = run(SHIPPED, *on_gpu, "--output", tmp_path / "runs.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "runs.json").read_text()) == committed
    assert len(committed["runs"]) == len(LOGS)


def test_rows_add_up_the_runs_of_a_stage_and_device():
    one = {"stage": "restorer", "device": "CPU", "steps": 1500, "patches": 2_000_000, "pixels": 3e9, "hours": 0.25}
    assert training_runs_grid({"runs": [one, one | {"device": "GPU"}, one | {"steps": 500}]})[1:] == [
        ["`restorer`", "CPU", "2", "2,000", "4.00", "6.00", "0.50"],
        ["`restorer`", "GPU", "1", "1,500", "2.00", "3.00", "0.25"],
    ]


def test_run_that_does_not_exist_cannot_have_used_a_gpu(tmp_path):
    result = run(SHIPPED, "--gpu", "lost", "--output", tmp_path / "runs.json")
    assert result.exit_code == 2
    assert "got 'lost'; correct it" in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "runs.json").exists()
