from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from typer.testing import CliRunner

from modeling_dpmambair import DegradationExtractorModel, DPMambaIRConfig, DPMambaIRModel
from training.assemble import RECORDS, assemble, main
from training.recipe import ModelRecipe
from training.stages import build_stage, save_trained


def leave_run(place: SimpleNamespace, folder: Path, stage: str, extractor: Path | None = None) -> Path:
    """Write what a finished run leaves, untrained."""
    recipe = ModelRecipe(stage=stage, config=str(place.model), extractor=str(extractor or place.extractor))
    save_trained(build_stage(recipe).model, folder)
    for name in RECORDS:
        (folder / name).write_text(f"{stage}'s {name}")
    return folder


def test_assembled_model_restores_and_describes_and_keeps_all_records(place: SimpleNamespace, tmp_path: Path) -> None:
    restorer = leave_run(place, tmp_path / "restorer", "restorer")
    description = leave_run(place, tmp_path / "description", "describe", restorer)
    assemble(restorer, description, tmp_path / "out")
    model, picture = DPMambaIRModel.from_pretrained(tmp_path / "out"), torch.rand(1, 3, 24, 24)
    expected = DPMambaIRModel.from_pretrained(restorer)(picture).reconstruction
    assert torch.equal(model(picture).reconstruction, expected)
    assert model.describe(picture).presence.shape == (1, 7)
    assert (tmp_path / "out" / "describe_log.jsonl").read_text() == "describe's log.jsonl"
    assert (tmp_path / "out" / "recipe.json").read_text() == "restorer's recipe.json"
    assert (tmp_path / "out" / "preprocessor_config.json").exists()
    assert not (tmp_path / "out.tmp").exists()


def test_head_of_another_extractor_is_refused(place: SimpleNamespace, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = DPMambaIRConfig.from_json_file(place.model)
    DegradationExtractorModel(config.extractor_config).save_pretrained(tmp_path / "other")
    description = leave_run(place, tmp_path / "description", "describe", tmp_path / "other")
    with pytest.raises(ValueError, match="`description` must be trained on the restorer's extractor, got .*another"):
        assemble(leave_run(place, tmp_path / "restorer", "restorer"), description, tmp_path / "out")


def test_unfinished_run_and_existing_output_are_refused(place: SimpleNamespace, tmp_path: Path) -> None:
    restorer = leave_run(place, tmp_path / "restorer", "restorer")
    with pytest.raises(FileNotFoundError, match="must be the folder of a finished run, got one without config.json"):
        assemble(restorer, tmp_path, tmp_path / "out")
    with pytest.raises(FileExistsError, match="`output` must be a new folder, got .*; remove it"):
        assemble(restorer, restorer, restorer)


def test_command_reports_an_error_in_one_line_and_fails(tmp_path: Path) -> None:
    application = typer.Typer()
    application.command()(main)
    result = CliRunner().invoke(application, [str(tmp_path), "--description", str(tmp_path), "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: `output` must be a new folder")
