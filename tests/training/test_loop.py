import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.tracking import TensorBoardTracker
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel
from tests.training.runs import after_step, assert_same_run, log_of, recipe_file, run
from training.loop import Trainer
from training.scores import Batch


@pytest.fixture(scope="module", params=["extractor", "restorer"])
def straight(request: pytest.FixtureRequest, place: SimpleNamespace) -> Path:
    """A whole run of a stage, never interrupted; its recipe lies beside its output."""
    folder = place.root / f"straight_{request.param}"
    if not folder.exists():
        folder.mkdir()
        assert run(recipe_file(place, folder, request.param), folder / "output")
    return folder


def test_four_steps_make_a_checkpoint(straight: Path) -> None:
    names = {path.name for path in (straight / "output" / "checkpoint-8").iterdir()}
    assert {"model.safetensors", "averaged.safetensors", "optimizer.bin", "scheduler.bin", "manifest.json"} <= names
    assert sorted(path.name for path in (straight / "output").glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-8",
    ]


def test_finished_run_leaves_model_processor_recipe_log_and_pictures(straight: Path) -> None:
    output = straight / "output"
    expected = ("model.safetensors", "config.json", "preprocessor_config.json", "recipe.json", "log.jsonl", "loss.png")
    assert all((output / name).stat().st_size for name in expected)
    with Image.open(output / "validation" / "10.png") as grid:
        assert grid.size == (3 * 32 + 4 * 2, 7 * 32 + 8 * 2)
    assert not list(output.rglob("*.tmp"))
    assert json.loads((output / "recipe.json").read_text())["data"]["clean_dirs"] == []


def test_log_has_losses_rates_and_gains(straight: Path) -> None:
    records = log_of(straight / "output")
    trained = [record for record in records if "loss" in record]
    assert [record["step"] for record in trained] == [2, 4, 6, 8, 10]
    assert [record["patch_size"] for record in trained] == [32, 32, 32, 40, 40]
    assert [trained[0]["lr"], trained[-1]["lr"]] == pytest.approx([1e-3, 1e-6])
    assert all(record["loss"] > 0 and record["grad_norm"] > 0 for record in trained)
    validated = [record for record in records if "validation_loss" in record]
    assert [record["step"] for record in validated] == [5, 10]
    assert {"gain_haze", "psnr_rain", "ssim_snow", "loss_noise"} < set(validated[0])


def test_tensorboard_has_numbers_of_training_and_validation_and_pictures(straight: Path) -> None:
    (folder,) = (path.parent for path in straight.rglob("events.out.*"))
    events = EventAccumulator(str(folder)).Reload()
    numbers = {"loss", "lr", "grad_norm", "samples_per_second", "memory_gb", "validation_loss", "psnr_haze"}
    assert numbers < set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("psnr_noise")] == [5, 10]
    (tag,) = events.Tags()["images"]
    assert tag == "source, reconstruction, target"
    assert [(picture.step, picture.width) for picture in events.Images(tag)] == [(5, 3 * 34 + 2), (10, 3 * 34 + 2)]


def test_tracker_without_pictures_gets_the_numbers(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Accelerate's trackio is."""
    monkeypatch.delattr(TensorBoardTracker, "log_images")
    recipe = recipe_file(place, tmp_path, steps=2, warmup_steps=0, validate_every=2)
    assert run(recipe, tmp_path / "run", "training.workers=0")
    (folder,) = (path.parent for path in (tmp_path / "run").rglob("events.out.*"))
    assert "psnr_haze" in EventAccumulator(str(folder)).Reload().Tags()["scalars"]


def test_weights_of_the_best_validation_are_kept(straight: Path) -> None:
    output = straight / "output"
    validated = [record for record in log_of(output) if "validation_loss" in record]
    gains = {r["step"]: sum(r[name] for name in r if name.startswith("gain_")) / 7 for r in validated}
    best = json.loads((output / "best" / "best.json").read_text())
    assert best["step"] == max(gains, key=gains.get)
    assert best["quality"] == pytest.approx(gains[best["step"]], abs=1e-4)
    final = load_file(output / "model.safetensors")
    is_final = all(
        torch.equal(final[name], kept) for name, kept in load_file(output / "best/model.safetensors").items()
    )
    assert is_final == (best["step"] == 10)


def test_saved_weights_are_the_averaged_ones(straight: Path) -> None:
    output = straight / "output"
    saved, averaged = load_file(output / "model.safetensors"), load_file(output / "checkpoint-10/averaged.safetensors")
    trained = load_file(output / "checkpoint-10/model.safetensors")
    assert all(torch.equal(saved[name], averaged[f"module.{name}"]) for name in saved)
    assert any(not torch.equal(saved[name], trained[name]) for name in saved)


@pytest.mark.ci
@pytest.mark.slow
def test_shrinking_batches_resume_and_equal_running_through(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(place, tmp_path, batch_size=[[0, 5], [4, 3]], checkpoint_every=99, validate_every=99)
    assert run(recipe, tmp_path / "straight")
    with monkeypatch.context() as patched:
        after_step(patched, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert not run(recipe, tmp_path / "stopped")
    assert run(recipe, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


# The step after the signal ends the run: 3 lies between two log records, 6 is where the patches grow, 8 ends an epoch.
@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize(
    ("straight", "step"), [("extractor", 6), ("restorer", 3), ("restorer", 8)], indirect=["straight"]
)
def test_sigterm_saves_and_resuming_equals_running_through(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    recipe = next(straight.glob("*.json"))
    with monkeypatch.context() as patched:
        after_step(patched, step - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert not run(recipe, tmp_path)
    assert (tmp_path / f"checkpoint-{step}" / "manifest.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
    assert run(recipe, tmp_path, resume=True)
    assert_same_run(straight / "output", tmp_path)


@pytest.mark.ci
@pytest.mark.slow
def test_resumed_run_may_be_longer_but_not_otherwise_different(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, steps=4, workers=0, checkpoint_every=99, validate_every=99)
    assert run(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match="`training.lr` must stay 0.001 with --resume, got 0.5"):
        run(recipe, tmp_path / "run", "training.lr=0.5", resume=True)
    assert run(recipe, tmp_path / "run", "training.steps=6", resume=True)
    assert [record["step"] for record in log_of(tmp_path / "run") if "loss" in record] == [2, 4, 6]


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_long_run_cooled_down_from_a_copied_checkpoint_equals_a_short_one(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    settings = f"training.optimizer={optimizer}", "training.workers=0"
    recipe = recipe_file(place, tmp_path, decay_steps=4, checkpoint_every=99, validate_every=99)
    assert run(recipe, tmp_path / "short", *settings)
    with monkeypatch.context() as patched:
        after_step(patched, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert not run(recipe, tmp_path / "long", *settings, "training.steps=40", "training.decay_steps=20")
    assert [record["lr"] for record in log_of(tmp_path / "long") if "lr" in record][1:] == [1e-3, 1e-3]
    shutil.copytree(tmp_path / "long", tmp_path / "cooled")
    assert run(recipe, tmp_path / "cooled", *settings, resume=True)
    assert_same_run(tmp_path / "short", tmp_path / "cooled")
    assert log_of(tmp_path / "cooled")[-2]["lr"] == pytest.approx(1e-6)


@pytest.mark.ci
@pytest.mark.slow
def test_recomputed_activations_change_no_step(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable, enabled = DPMambaIRModel.activation_checkpointing_enable, []
    monkeypatch.setattr(
        DPMambaIRModel, "activation_checkpointing_enable", lambda model: enabled.append(model) or enable(model)
    )
    recipe = recipe_file(place, tmp_path, steps=2, warmup_steps=1, checkpoint_every=2, validate_every=99, log_every=1)
    assert run(recipe, tmp_path / "kept", "training.workers=0")
    assert enabled == []
    assert run(recipe, tmp_path / "recomputed", "training.workers=0", "training.activation_checkpointing=true")
    assert len(enabled) == 1
    assert_same_run(tmp_path / "kept", tmp_path / "recomputed")


def test_resuming_without_a_checkpoint_is_refused(place: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`output` must hold an intact checkpoint for --resume"):
        run(recipe_file(place, tmp_path), tmp_path / "new", resume=True)


@pytest.mark.ci
@pytest.mark.slow
def test_run_that_was_killed_before_its_first_checkpoint_begins_anew(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(place, tmp_path, steps=4, validate_every=2)
    assert run(recipe, tmp_path / "straight", "training.workers=0")

    def kill() -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        after_step(patched, 3, kill)
        with pytest.raises(MemoryError):
            run(recipe, tmp_path / "killed", "training.workers=0")
    assert log_of(tmp_path / "killed")
    assert run(recipe, tmp_path / "killed", "training.workers=0", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_description_run_is_scored_without_pictures_and_gives_a_restorer_its_head(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    recipe = recipe_file(place, tmp_path, "describe", steps=4, validate_every=4)
    assert run(recipe, tmp_path / "run", "training.workers=0")
    validated = [record for record in log_of(tmp_path / "run") if "validation_loss" in record]
    assert {"accuracy", "spearman", "accuracy_haze", "spearman_noise"} < set(validated[-1])
    assert not (tmp_path / "run" / "validation").exists()
    restorer = DPMambaIRModel(DPMambaIRConfig.from_json_file(place.model))
    restorer.load_extractor(place.extractor)
    restorer.load_description(tmp_path / "run")
    assert restorer.describe(torch.rand(2, 3, 32, 32)).presence.shape == (2, 7)


@pytest.mark.ci
@pytest.mark.slow
def test_accumulated_steps_equal_steps_of_larger_batches(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, steps=4, checkpoint_every=99, validate_every=99)
    settings = "training.workers=0", "training.lr=1e-3"
    assert run(recipe, tmp_path / "large", *settings)
    assert run(recipe, tmp_path / "small", *settings, "training.batch_size=2", "training.accumulation_steps=2")
    large, small = (load_file(tmp_path / name / "model.safetensors") for name in ("large", "small"))
    for name in large:
        torch.testing.assert_close(small[name], large[name], atol=1e-5, rtol=0)


def test_fine_tuning_starts_from_a_trained_folder_on_pairs_of_ones_own(place: SimpleNamespace, tmp_path: Path) -> None:
    start = DPMambaIRModel(DPMambaIRConfig.from_json_file(place.model))
    start.load_extractor(place.extractor)
    start.save_pretrained(tmp_path / "start")
    pairs = tmp_path / "corpora" / "paired_folders" / "train"
    shutil.copytree(place.clean, pairs / "clean")
    (pairs / "degraded").mkdir()
    for path in place.clean.iterdir():
        with Image.open(path) as clean:
            clean.point(lambda level: level // 2).save(pairs / "degraded" / path.name)
    assert run(
        recipe_file(place, tmp_path, steps=5, batch_size=2, warmup_steps=0, validate_every=5),
        tmp_path / "run",
        "training.workers=0",
        "training.lr=1e-5",
        "data.clean_dirs=[]",
        "data.corpora=paired_folders",
        "data.paired_task=low_light",
        f"data.corpora_dir={tmp_path / 'corpora'}",
        f"model.init_from={tmp_path / 'start'}",
        "model.extractor=null",
        'model.overrides={"freeze_extractor": false}',
    )
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "run"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("extractor.") for name in moved)
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert "gain_paired_folders" in log_of(tmp_path / "run")[-1]


def test_loss_gradients_and_scan_parameters_stay_in_float32_under_bf16(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer._accumulate

    def check(self: Trainer, batch: Batch) -> torch.Tensor:
        loss = original(self, batch)
        trained = [one for part in self.parts for one in part]
        assert {loss.dtype, *(p.grad.dtype for p in trained), *(p.dtype for p in trained)} == {torch.float32}
        return loss

    monkeypatch.setattr(Trainer, "_accumulate", check)
    recipe = recipe_file(place, tmp_path, steps=1, mixed_precision="bf16", validate_every=99)
    assert run(recipe, tmp_path / "run", "training.workers=0", "training.warmup_steps=0")
