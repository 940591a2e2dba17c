import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import squeezenet1_1
from typer.testing import CliRunner

import train_accelerate
from modeling_dpmambair import DegradationExtractorModel, DPMambaIRConfig
from train_accelerate import train
from training.loop import Trainer
from training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]

SHRUNK_EXTRACTOR = {"channels": [4, 4, 6, 8], "kernel_sizes": [3, 3], "embedding_dim": 8, "reconstruction_dim": 4}
SHRUNK = {"dim": 4, "d_state": 2, "prompt_dim": 2, "refinement_depth": 0, "extractor_config": SHRUNK_EXTRACTOR}

# 17 of 20 pictures train: epochs of 4 steps. The patches grow at step 6, in the middle of an epoch.
SETTINGS = {
    "data": {"held_out_every": 8, "validation_pictures": 2, "validation_patch": 32},
    "training": {
        "steps": 10,
        "batch_size": 4,
        "patch_schedule": [[0, 32], [6, 40]],
        "lr": 1e-3,
        "warmup_steps": 2,
        "mixed_precision": "no",
        "log_every": 2,
        "checkpoint_every": 4,
        "validate_every": 5,
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Twenty smooth pictures, a shrunk configuration, an untrained extractor of it, and an LPIPS backbone of noise."""
    root = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    (root / "clean").mkdir()
    for index in range(20):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((56, 48), Image.Resampling.BICUBIC).save(root / "clean" / f"{index:02}.png")
    content = json.loads((ROOT / "configuration/model/tiny.json").read_text()) | SHRUNK
    (root / "model.json").write_text(json.dumps(content))
    config = DPMambaIRConfig.from_json_file(root / "model.json")
    DegradationExtractorModel(config.extractor_config).save_pretrained(root / "extractor")
    return SimpleNamespace(
        root=root,
        clean=root / "clean",
        model=root / "model.json",
        extractor=root / "extractor",
        backbone=backbone(root),
    )


def backbone(root: Path) -> Path:
    """Write untrained SqueezeNet features: the plumbing of LPIPS without its ImageNet weights."""
    save_file(squeezenet1_1().features.state_dict(prefix="features."), root / "squeeze.safetensors")
    return root / "squeeze.safetensors"


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """Let every run of this process set its own precision and devices, on the CPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def recipe_file(place: SimpleNamespace, folder: Path, stage: str = "restorer", **training: object) -> Path:
    model = {"stage": stage, "config": str(place.model)}
    model |= {"extractor": {"lpips_backbone": str(place.backbone)}, "restorer": {"extractor": str(place.extractor)}}[
        stage
    ]
    data = SETTINGS["data"] | {"clean_dirs": [str(place.clean)]}
    path = folder / f"{stage}.json"
    path.write_text(json.dumps({"model": model, "data": data, "training": SETTINGS["training"] | training}))
    return path


def run(recipe: Path, output: Path, *overrides: str, resume: bool = False) -> bool:
    AcceleratorState._reset_state(reset_partial_state=True)
    return train(Recipe.from_file(recipe, overrides), output, resume=resume)


def log_of(output: Path) -> list[dict[str, object]]:
    """The log without what the clock says."""
    records = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k not in {"seconds", "samples_per_second"}} for record in records]


def assert_same_run(first: Path, second: Path) -> None:
    last = sorted(first.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-1].name
    for name in ("model.safetensors", f"{last}/model.safetensors", f"{last}/averaged.safetensors"):
        ours, theirs = load_file(first / name), load_file(second / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), f"{name} differs"
    moments = [torch.load(path / last / "optimizer.bin", weights_only=True)["state"] for path in (first, second)]
    assert all(torch.equal(moments[0][i][key], moments[1][i][key]) for i in moments[0] for key in moments[0][i])
    assert log_of(first) == log_of(second)


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something once a run has done this many steps."""
    original = Trainer._step

    def step_and_act(self: Trainer, batch: dict[str, torch.Tensor]) -> None:
        original(self, batch)
        if self.progress.step == step:
            act()

    monkeypatch.setattr(Trainer, "_step", step_and_act)


@pytest.fixture(scope="module", params=["extractor", "restorer"])
def straight(request: pytest.FixtureRequest, place: SimpleNamespace) -> Path:
    """A whole run of a stage, never interrupted; its recipe lies beside its output."""
    folder = place.root / f"straight_{request.param}"
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
    assert {"gain_haze", "gain_rain", "gain_snow", "gain_noise"} < set(validated[0])


def test_saved_weights_are_the_averaged_ones(straight: Path) -> None:
    output = straight / "output"
    saved, averaged = load_file(output / "model.safetensors"), load_file(output / "checkpoint-10/averaged.safetensors")
    trained = load_file(output / "checkpoint-10/model.safetensors")
    assert all(torch.equal(saved[name], averaged[f"module.{name}"]) for name in saved)
    assert any(not torch.equal(saved[name], trained[name]) for name in saved)


# Step 3 lies between two log records, 5 is validated, 6 is where the patches grow and 8 the end of an epoch.
@pytest.mark.parametrize("step", [3, 6, 8])
def test_sigterm_saves_and_resuming_equals_running_through(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    recipe = next(straight.glob("*.json"))
    with monkeypatch.context() as patched:
        after_step(patched, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert not run(recipe, tmp_path)
    assert (tmp_path / f"checkpoint-{step}" / "manifest.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
    assert run(recipe, tmp_path, resume=True)
    assert_same_run(straight / "output", tmp_path)


def test_killed_run_resumes_and_equals_running_through(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, steps=40, checkpoint_every=5, validate_every=40)
    command = [sys.executable, "train_accelerate.py", "--config", str(recipe), "--output", str(tmp_path / "killed")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / "checkpoint-5").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert run(recipe, tmp_path / "killed", resume=True)
    assert run(recipe, tmp_path / "straight")
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, validate_every=10)
    assert run(recipe, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoint-10" / "model.safetensors"
    expected = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not mapped from the file
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.warns(UserWarning, match="checkpoint-10 is damaged .*; falling back to the one before"):
        assert run(recipe, tmp_path / "run", resume=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(weights).items())
    assert [record["step"] for record in log_of(tmp_path / "run") if "loss" in record] == [2, 4, 6, 8, 10]


def test_resumed_run_may_be_longer_but_not_otherwise_different(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, steps=4, validate_every=99)
    assert run(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match="`training.lr` must stay 0.001 with --resume, got 0.5"):
        run(recipe, tmp_path / "run", "training.lr=0.5", resume=True)
    assert run(recipe, tmp_path / "run", "training.steps=6", resume=True)
    assert [record["step"] for record in log_of(tmp_path / "run") if "loss" in record] == [2, 4, 6]


def test_new_run_in_the_folder_of_another_is_refused(place: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(FileExistsError, match="`output` must be a new folder, got .* with a run in it; add --resume"):
        run(recipe_file(place, tmp_path), tmp_path)


def test_resuming_without_a_checkpoint_is_refused(place: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`output` must hold an intact checkpoint for --resume"):
        run(recipe_file(place, tmp_path), tmp_path / "new", resume=True)


def test_loss_falls_on_an_easy_task(place: SimpleNamespace, tmp_path: Path) -> None:
    recipe = recipe_file(place, tmp_path, steps=40, lr=5e-3, log_every=10, validate_every=99, patch_schedule=[[0, 32]])
    assert run(recipe, tmp_path / "run", 'data.kinds=["low_light"]', "data.severity=[0.6,0.6]", "training.workers=0")
    losses = [record["loss"] for record in log_of(tmp_path / "run") if "loss" in record]
    assert losses[-1] < 0.8 * losses[0]


def test_steps_that_are_not_finite_leave_the_weights_and_are_counted(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(self: Trainer, batch: dict[str, torch.Tensor]) -> None:
        if self.progress.step in {2, 3}:
            batch["labels"][0, 0, 0, 0] = torch.nan
        before = [parameter.clone() for parameter in self.trained]
        original(self, batch)
        moved = any(not torch.equal(a, b) for a, b in zip(before, self.trained, strict=True))
        assert moved == (self.progress.step not in {3, 4})

    original = Trainer._step
    monkeypatch.setattr(Trainer, "_step", spoil)
    assert run(recipe_file(place, tmp_path, validate_every=99), tmp_path / "run", "training.workers=0")
    trained = [record for record in log_of(tmp_path / "run") if "loss" in record]
    assert [record["skipped"] for record in trained] == [0, 2, 2, 2, 2]
    assert trained[1]["loss"] is None


def test_too_many_steps_that_are_not_finite_stop_the_run_and_keep_the_records(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.MOST_SKIPPED_IN_A_ROW", 3)
    original = Trainer._step

    def spoil(self: Trainer, batch: dict[str, torch.Tensor]) -> None:
        original(self, batch | {"labels": batch["labels"] * (torch.nan if self.progress.step else 1)})

    monkeypatch.setattr(Trainer, "_step", spoil)
    with pytest.raises(FloatingPointError, match="must be finite, got 3 steps in a row .* the last one 4; lower"):
        run(recipe_file(place, tmp_path), tmp_path / "run", "training.workers=0")
    replay = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert [replay["step"], len(replay["records"])] == [4, 4]


@pytest.mark.parametrize(
    ("stage", "override", "text"),
    [
        ("restorer", "data.clean_dirs=[]", "`data.clean_dirs` must name a folder of clean photographs, got none"),
        ("restorer", "data.clean_dirs=absent", "`data.clean_dirs` must be existing folders, got 'absent'; give --set"),
        ("restorer", "model.config=absent", "`model.config` must be an existing JSON file, got 'absent'"),
        ("restorer", "model.extractor=null", "`model.extractor` must be the folder of a trained extractor, got None"),
        ("restorer", "model.extractor=absent", "`model.extractor` must be an existing folder, got 'absent'"),
        ("restorer", "training.batch_size=18", "`training.batch_size` must be at most the 17 training photographs"),
        ("extractor", "model.lpips_backbone=absent", "`backbone` must be an existing safetensors file, got 'absent'"),
        (
            "restorer",
            "training.mixed_precision=fp16",
            "`training.mixed_precision` must be 'bf16' or 'no' on a CPU, got",
        ),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(
    place: SimpleNamespace, tmp_path: Path, stage: str, override: str, text: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        run(recipe_file(place, tmp_path, stage), tmp_path / "run", override)


def test_missing_cached_backbone_is_named(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(
        FileNotFoundError, match="`backbone` must be given while torch's hub cache lacks squeezenet1_1"
    ):
        run(recipe_file(place, tmp_path, "extractor"), tmp_path / "run", "model.lpips_backbone=null")


@pytest.fixture
def command() -> typer.Typer:
    application = typer.Typer()
    application.command()(train_accelerate.main)
    return application


def test_command_reports_an_error_in_one_line_and_fails(command: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--config", str(tmp_path / "absent.json")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: `config` must be an existing JSON recipe, got")
    assert result.stderr.count("\n") == 1


def test_command_stopped_by_sigterm_succeeds_and_tells_how_to_resume(
    command: typer.Typer, place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    arguments = ["--config", str(recipe_file(place, tmp_path)), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(command, [*arguments, "--set", "training.workers=0"])
    assert result.exit_code == 0, result.output
    assert "stopped by SIGTERM after saving; continue with the same command and --resume" in result.stdout
    result = CliRunner().invoke(command, [*arguments, "--set", "training.workers=0", "--resume"])
    assert "trained; the model is in" in result.stdout
