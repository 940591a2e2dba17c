import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from accelerate.utils import is_trackio_available
from typer.testing import CliRunner

import train_accelerate
from tests.training.runs import after_step, make_place, recipe_file, run
from train_accelerate import choose_precision
from training.recipe import TrainingRecipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_place(tmp_path_factory.mktemp("place"))


def test_new_run_in_the_folder_of_another_is_refused(place: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(FileExistsError, match="`output` must be a new folder, got .* with a run in it; add --resume"):
        run(recipe_file(place, tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("stage", "override", "text"),
    [
        (
            "restorer",
            "data.clean_dirs=[]",
            "`data.clean_dirs` must name a folder of clean photographs while .*, got none",
        ),
        ("restorer", "data.clean_dirs=absent", "`data.clean_dirs` must be existing folders, got 'absent'; give --set"),
        ("restorer", "model.config=absent", "`model.config` must be an existing JSON file, got 'absent'"),
        ("restorer", "model.extractor=null", "`model.extractor` must be the folder of a trained extractor, got None"),
        ("restorer", "model.extractor=absent", "`model.extractor` must be an existing folder, got 'absent'"),
        ("restorer", "training.batch_size=18", "`training.batch_size` must be at most the 17 training pictures"),
        ("restorer", "data.corpora=lol", "`data.corpora_dir` must be the folder that holds lol, got None; give --set"),
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


@pytest.mark.ci
@pytest.mark.slow
def test_command_stopped_by_sigterm_succeeds_and_tells_how_to_resume(
    command: typer.Typer, place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    arguments = ["--config", str(recipe_file(place, tmp_path)), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(command, [*arguments, "--set", "training.workers=0"])
    assert result.exit_code == 0, result.output
    assert "stopped by a signal after saving; continue with the same command and --resume" in result.stdout
    result = CliRunner().invoke(command, [*arguments, "--set", "training.workers=0", "--resume"])
    assert "trained; the model is in" in result.stdout


def test_command_prints_a_plan_and_trains_nothing(
    command: typer.Typer, place: SimpleNamespace, tmp_path: Path
) -> None:
    arguments = ["--config", str(recipe_file(place, tmp_path)), "--output", str(tmp_path / "run"), "--plan"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "steps        10 of 1 pass(es)" in result.stdout
    assert not (tmp_path / "run").exists()


def test_tracker_that_is_not_installed_is_refused(place: SimpleNamespace, tmp_path: Path) -> None:
    if is_trackio_available():
        pytest.skip("it is installed")
    with pytest.raises(ValueError, match="`training.trackers` must be installed, got 'trackio'; run pip install"):
        run(recipe_file(place, tmp_path), tmp_path / "run", "training.trackers=trackio")


def test_precision_is_the_launcher_s_where_the_recipe_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert choose_precision(TrainingRecipe(mixed_precision=None)) == "bf16"
    assert choose_precision(TrainingRecipe(mixed_precision="no")) == "no"
