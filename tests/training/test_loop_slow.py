"""Interruptions and process groups of whole commands; each test starts several."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.training.runs import ROOT, assert_same_run, recipe_file
from training.journal import Journal

pytestmark = pytest.mark.slow

DEADLINE = 300  # seconds
# 60 steps in epochs of 4; the patches grow at step 30, after the interruptions at about 25.
LONG = {"steps": 60, "patch_schedule": [[0, 32], [30, 40]], "checkpoint_every": 5, "validate_every": 20, "workers": 2}


def command(recipe: Path, output: Path, *arguments: str) -> list[str]:
    return [sys.executable, "train_accelerate.py", "--config", str(recipe), "--output", str(output), *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def train(recipe: Path, output: Path, *arguments: str) -> None:
    subprocess.run(
        command(recipe, output, *arguments), cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=600
    )


def interrupt(recipe: Path, output: Path, name: signal.Signals) -> int:
    """Begin a run, send it a signal once its checkpoint of step 25 exists, and return how it ended."""
    with subprocess.Popen(command(recipe, output), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + DEADLINE
        while not (output / "checkpoint-25").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(name)
    return process.returncode


@pytest.mark.parametrize(("name", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)])
def test_interrupted_command_resumes_and_equals_running_through(
    place: SimpleNamespace, tmp_path: Path, name: signal.Signals, status: int
) -> None:
    recipe = recipe_file(place, tmp_path, **LONG)
    train(recipe, tmp_path / "straight")
    assert interrupt(recipe, tmp_path / "interrupted", name) == status
    assert not (tmp_path / "interrupted" / "model.safetensors").exists()
    train(recipe, tmp_path / "interrupted", "--resume")
    assert_same_run(tmp_path / "straight", tmp_path / "interrupted")


def test_two_processes_equal_one_with_batches_of_twice_the_size(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, steps=20, validate_every=20, log_every=5, workers=0)
    train(recipe, tmp_path / "one", "--set", "training.batch_size=8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    pair = [*launch, *command(recipe, tmp_path / "two")[1:]]
    subprocess.run(pair, cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=600)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        # Adam makes a whole step of what rounding leaves where a gradient vanishes; half the batch differs by 1e-2.
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=0)
    losses = [
        [r["loss"] for r in Journal(tmp_path / name / "log.jsonl").read() if "loss" in r] for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_sharded_weights_train_as_whole_ones_do(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, steps=8, validate_every=8, workers=0)
    train(recipe, tmp_path / "whole", "--set", "training.batch_size=8")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "configuration/accelerate/fsdp2.yaml",
    ]
    launch += ["--num_processes", "2", "--main_process_port", "0", "tests/training/train_sharded_on_cpu.py"]
    sharded = [*launch, *command(recipe, tmp_path / "sharded")[2:]]
    settings = environment() | {"PYTHONPATH": str(ROOT)}
    subprocess.run(sharded, cwd=ROOT, env=settings, check=True, capture_output=True, timeout=600)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "sharded"))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=0)
