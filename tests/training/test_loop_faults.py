import json
import os
import resource
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from dataset_scripts import load_clean_photographs
from tests.training.runs import after_step, assert_same_run, log_of, recipe_file, run
from training.checkpoints import find_checkpoint
from training.loop import Trainer
from training.scores import Batch, Scores
from training.validation import Validation


@pytest.mark.ci
@pytest.mark.slow
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, workers=0, validate_every=99)
    assert run(recipe, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoint-10" / "model.safetensors"
    expected = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not mapped from the file
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.warns(UserWarning, match="checkpoint-10 is damaged .*; falling back to the one before"):
        assert run(recipe, tmp_path / "run", resume=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(weights).items())
    assert [record["step"] for record in log_of(tmp_path / "run") if "loss" in record] == [2, 4, 6, 8, 10]


def test_steps_that_are_not_finite_leave_the_weights_and_are_counted(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(self: Trainer, batches: list[Batch]) -> None:
        if self.progress.step in {2, 3}:
            batches[0]["labels"][0, 0, 0, 0] = torch.nan
        trained = [parameter for part in self.parts for parameter in part]
        before = [parameter.clone() for parameter in trained]
        original(self, batches)
        moved = any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
        assert moved == (self.progress.step not in {3, 4})

    original = Trainer._step
    monkeypatch.setattr(Trainer, "_step", spoil)
    assert run(
        recipe_file(place, tmp_path, checkpoint_every=99, validate_every=99), tmp_path / "run", "training.workers=0"
    )
    trained = [record for record in log_of(tmp_path / "run") if "loss" in record]
    assert [record["skipped"] for record in trained] == [0, 2, 2, 2, 2]
    assert trained[1]["loss"] is None


def test_too_many_steps_that_are_not_finite_stop_the_run_and_keep_the_records(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.MOST_SKIPPED_IN_A_ROW", 3)
    original = Trainer._step

    def spoil(self: Trainer, batches: list[Batch]) -> None:
        (batch,) = batches
        original(self, [batch | {"labels": batch["labels"] * (torch.nan if self.progress.step else 1)}])

    monkeypatch.setattr(Trainer, "_step", spoil)
    with pytest.raises(FloatingPointError, match="must be finite, got 3 steps in a row .* the last one 4; lower"):
        run(recipe_file(place, tmp_path), tmp_path / "run", "training.workers=0")
    replay = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert [replay["step"], len(replay["records"])] == [4, 4]


def test_full_disk_ends_the_run_with_the_checkpoint_before_intact(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    after_step(monkeypatch, 7, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard)))
    recipe = recipe_file(place, tmp_path, validate_every=99)
    try:
        with pytest.raises(OSError, match="`output` must have room for a checkpoint, got .* writing checkpoint-8"):
            run(recipe, tmp_path / "run", "training.workers=0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-4"]
    assert find_checkpoint(tmp_path / "run")[1]["progress"]["step"] == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_picture_ends_the_run_by_name(place: SimpleNamespace, tmp_path: Path, workers: int) -> None:
    clean = spoil_pictures(place, tmp_path)
    with pytest.raises(ValueError, match="'03.png' must be a readable picture, got .*data.unreadable=replace"):
        run(recipe_file(place, tmp_path), tmp_path / "run", f"training.workers={workers}", f"data.clean_dirs={clean}")


@pytest.mark.ci
@pytest.mark.slow
def test_unreadable_picture_gives_way_to_the_next_one(
    place: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clean = spoil_pictures(place, tmp_path)
    settings = "training.workers=0", "data.unreadable=replace", f"data.clean_dirs={clean}"
    assert run(recipe_file(place, tmp_path, steps=4, validate_every=99), tmp_path / "run", *settings)
    assert "'03.png' cannot be read" in caplog.text


def spoil_pictures(place: SimpleNamespace, folder: Path) -> Path:
    """Copy the pictures; one of them is damaged by the time that training comes to it."""
    clean = folder / "clean"
    shutil.copytree(place.clean, clean)
    load_clean_photographs(str(clean))
    times = (clean / "03.png").stat()
    (clean / "03.png").write_bytes(bytes(times.st_size))
    os.utime(clean / "03.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk fails: the listing is the same
    return clean


@pytest.mark.ci
@pytest.mark.slow
def test_sigterm_during_validation_saves_and_resuming_equals_running_through(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(place, tmp_path, steps=6, validate_every=3)
    assert run(recipe, tmp_path / "straight", "training.workers=0")
    original = Validation.run

    def terminated(self: Validation, *arguments: object) -> Scores:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Validation, "run", terminated)
        assert not run(recipe, tmp_path / "stopped", "training.workers=0")
    assert (tmp_path / "stopped" / "checkpoint-4").exists()
    assert run(recipe, tmp_path / "stopped", "training.workers=0", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.ci
@pytest.mark.slow
def test_second_ctrl_c_ends_at_once_and_the_checkpoint_before_stands(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(place, tmp_path, steps=6, validate_every=99)
    assert run(recipe, tmp_path / "straight", "training.workers=0")

    def interrupt_twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        after_step(patched, 5, interrupt_twice)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "stopped", "training.workers=0")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert [path.name for path in (tmp_path / "stopped").glob("checkpoint-*")] == ["checkpoint-4"]
    assert run(recipe, tmp_path / "stopped", "training.workers=0", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
