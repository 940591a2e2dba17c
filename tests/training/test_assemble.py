import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from dpmambair.shipped import ATTRIBUTION
from modeling_dpmambair import DegradationExtractorModel, DPMambaIRConfig, DPMambaIRModel
from training.assemble import COLUMNS, assemble, main
from training.average import app as average_app
from training.checkpoints import begin_checkpoint, finish_checkpoint
from training.recipe import ModelRecipe
from training.stages import build_stage, save_trained


def leave_run(place: SimpleNamespace, folder: Path, stage: str, extractor: Path | None = None) -> Path:
    """Write what a finished run leaves, untrained."""
    recipe = ModelRecipe(stage=stage, config=str(place.model), extractor=str(extractor or place.extractor))
    save_trained(build_stage(recipe).model, folder)
    (folder / "recipe.json").write_text(json.dumps({"model": {"stage": stage}}))
    (folder / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "lr": 1e-3}) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(place: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished run of a restorer leaves; tests copy it."""
    return leave_run(place, tmp_path_factory.mktemp("finished") / "run", "restorer")


def test_assembled_model_restores_and_describes(finished: Path, place: SimpleNamespace, tmp_path: Path) -> None:
    restorer = shutil.copytree(finished, tmp_path / "restorer")
    description = leave_run(place, tmp_path / "describe", "describe", restorer)
    assemble(restorer, tmp_path / "out", description)
    model, picture = DPMambaIRModel.from_pretrained(tmp_path / "out"), torch.rand(1, 3, 24, 24)
    expected = DPMambaIRModel.from_pretrained(restorer)(picture).reconstruction
    assert torch.equal(model(picture).reconstruction, expected)
    assert model.describe(picture).presence.shape == (1, 7)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["config.json", "model.safetensors", "preprocessor_config.json", "training"]
    assert "auto_map" not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.json"))
    assert not (tmp_path / "out.tmp").exists()


def test_head_that_pretrained_along_with_the_extractor_describes(place: SimpleNamespace, tmp_path: Path) -> None:
    weight = {"extractor_config": {"description_weight": 0.1}}
    recipe = ModelRecipe("extractor", str(place.model), weight, lpips_backbone=str(place.backbone))
    trained, extractor = build_stage(recipe).model.eval(), tmp_path / "extractor"
    save_trained(trained, extractor)
    (extractor / "recipe.json").write_text("{}")
    (extractor / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "lr": 1e-3}) + "\n")
    restorer = leave_run(place, tmp_path / "restorer", "restorer", extractor)
    out, picture = assemble(restorer, tmp_path / "out", extractor), torch.rand(1, 3, 24, 24)
    presence = DPMambaIRModel.from_pretrained(out).describe(picture).presence
    torch.testing.assert_close(presence, trained(picture).presence)
    with pytest.raises(ValueError, match="`description` must hold a head that describes, got .*; name a run"):
        assemble(restorer, tmp_path / "other", leave_run(place, tmp_path / "headless", "restorer", extractor))


def test_mean_of_runs_is_assembled_with_the_record_of_their_names(
    finished: Path, place: SimpleNamespace, tmp_path: Path
) -> None:
    runs = [shutil.copytree(finished, tmp_path / "one"), leave_run(place, tmp_path / "other", "restorer")]
    arguments = [*map(str, runs), "--output", str(tmp_path / "mean")]
    assert CliRunner().invoke(average_app, arguments).exit_code == 0
    assemble(tmp_path / "mean", tmp_path / "out", earlier=runs)
    assert json.loads((tmp_path / "out/training/mean/average.json").read_text()) == {"runs": ["one", "other"]}
    assert sorted(path.name for path in (tmp_path / "out/training").iterdir()) == ["mean", "one", "other"]


def test_what_was_taught_of_whole_scenes_is_assembled_with_its_record(finished: Path, tmp_path: Path) -> None:
    taught = shutil.copytree(finished, tmp_path / "taught")
    (taught / "log.jsonl").unlink()
    (taught / "scenes.json").write_text('{"model": "finished"}')
    out = assemble(taught, tmp_path / "out")
    assert [path.name for path in (out / "training/taught").iterdir()] == ["scenes.json"]


def test_records_of_every_run_stand_in_folders_of_their_names(finished: Path, tmp_path: Path) -> None:
    restorer = shutil.copytree(finished, tmp_path / "context")
    earlier = [shutil.copytree(finished, tmp_path / name) for name in ("first", "second")]
    out = assemble(restorer, tmp_path / "out", earlier=earlier)
    assert not DPMambaIRModel.from_pretrained(out).config.has_description
    assert sorted(path.name for path in (out / "training").iterdir()) == ["context", "first", "second"]
    for folder in (out / "training").iterdir():
        assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "loss.png", "recipe.json"]
        assert (folder / "log.jsonl").read_text() == (restorer / "log.jsonl").read_text()
        assert json.loads((folder / "recipe.json").read_text()) == {"model": {"stage": "restorer"}}
        with Image.open(folder / "loss.png") as plot:
            assert plot.size == (960, 540)


def test_attribution_keeps_every_photograph_and_what_names_its_author(finished: Path, tmp_path: Path) -> None:
    restorer, sources = shutil.copytree(finished, tmp_path / "restorer"), tmp_path / "SOURCES.csv"
    names = (*COLUMNS, "original_name", "width")
    rows = [{name: f'{name} {number}, "ä" b' for name in names} for number in range(3)]
    rows[1] |= {"author": "Ada\tL  <ada@example.org>", "title": "", "original_name": "folder/sea view.jpg"}
    with sources.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert not (assemble(restorer, tmp_path / "without") / ATTRIBUTION).exists()
    out = assemble(restorer, tmp_path / "out", sources=sources)
    with (out / ATTRIBUTION).open(encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    rows[1] |= {"author": "Ada L", "title": "sea view"}
    assert kept == [{name: row[name] for name in COLUMNS} for row in rows]


def test_attribution_without_authors_is_refused(finished: Path, tmp_path: Path) -> None:
    restorer, sources = shutil.copytree(finished, tmp_path / "restorer"), tmp_path / "SOURCES.csv"
    sources.write_text("file,title\na.png,a\n")
    with pytest.raises(ValueError, match="`sources` must have the columns file, .* SOURCES.csv without author; add"):
        assemble(restorer, tmp_path / "out", sources=sources)
    assert not (tmp_path / "out").exists()


def test_best_weights_of_a_stopped_run_bring_its_checkpoints_recipe(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    best = shutil.copytree(finished, run / "best")
    for path in (run / "recipe.json", run / "model.safetensors", best / "recipe.json", best / "log.jsonl"):
        path.unlink()
    (best / "best.json").write_text('{"step": 1}')
    finish_checkpoint(begin_checkpoint(run, 1), {"recipe": {"training": {"steps": 9}}}, keep=1)
    out = assemble(best, tmp_path / "out")
    assert json.loads((out / "training/run/recipe.json").read_text()) == {"training": {"steps": 9}}
    assert json.loads((out / "training/run/best.json").read_text()) == {"step": 1}
    assert (out / "model.safetensors").exists()


def test_head_of_another_extractor_is_refused(finished: Path, place: SimpleNamespace, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = DPMambaIRConfig.from_json_file(place.model)
    DegradationExtractorModel(config.extractor_config).save_pretrained(tmp_path / "other")
    description = leave_run(place, tmp_path / "describe", "describe", tmp_path / "other")
    with pytest.raises(ValueError, match="`description` must be trained on the restorer's extractor, got .*another"):
        assemble(shutil.copytree(finished, tmp_path / "restorer"), tmp_path / "out", description)


def test_restorer_that_reads_the_head_keeps_it(place: SimpleNamespace, tmp_path: Path) -> None:
    first = leave_run(place, tmp_path / "first", "describe")
    reading = {"has_description": True, "reads_description": True}
    recipe = ModelRecipe("restorer", str(place.model), reading, extractor=str(first))
    restorer = leave_run(place, tmp_path / "restorer", "restorer", first)
    save_trained(build_stage(recipe).model, restorer)
    assert DPMambaIRModel.from_pretrained(assemble(restorer, tmp_path / "out", first)).config.reads_description
    torch.manual_seed(1)
    other = leave_run(place, tmp_path / "other", "describe", first)
    with pytest.raises(ValueError, match="`description` must be the head that the restorer reads, got .*other; name"):
        assemble(restorer, tmp_path / "refused", other)


def test_head_that_the_restorer_trained_along_ships_without_a_description(
    finished: Path, place: SimpleNamespace, tmp_path: Path
) -> None:
    describing = leave_run(place, tmp_path / "describe", "describe")
    training = {"has_description": True, "freeze_extractor": False, "description_weight": 0.05}
    recipe = ModelRecipe("restorer", str(place.model), training, extractor=str(describing))
    trained, restorer = build_stage(recipe).model.eval(), shutil.copytree(finished, tmp_path / "restorer")
    with torch.no_grad():
        for parameter in (*trained.extractor.parameters(), *trained.description_head.parameters()):
            parameter.mul_(1.1)
    save_trained(trained, restorer)
    out, picture = assemble(restorer, tmp_path / "out", earlier=[describing]), torch.rand(1, 3, 24, 24)
    presence = DPMambaIRModel.from_pretrained(out).describe(picture).presence
    torch.testing.assert_close(presence, trained.describe(picture).presence)
    assert sorted(path.name for path in (out / "training").iterdir()) == ["describe", "restorer"]
    with pytest.raises(ValueError, match="`description` must be trained on the restorer's extractor, got .*another"):
        assemble(restorer, tmp_path / "refused", describing)


def test_folders_that_cannot_be_assembled_are_refused(finished: Path, tmp_path: Path) -> None:
    restorer = shutil.copytree(finished, tmp_path / "restorer")
    with pytest.raises(FileNotFoundError, match="must hold a trained model, got a folder without config.json; train"):
        assemble(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="must be a run's folder, got one without log.jsonl; name"):
        assemble(restorer, tmp_path / "out", earlier=[tmp_path])
    with pytest.raises(ValueError, match="runs must have different names, got 'restorer' twice; rename a folder"):
        assemble(restorer, tmp_path / "out", earlier=[restorer])
    with pytest.raises(FileExistsError, match="`output` must be a new folder, got .*; remove it"):
        assemble(restorer, restorer)


def test_command_reports_an_error_in_one_line_and_fails(tmp_path: Path) -> None:
    application = typer.Typer()
    application.command()(main)
    result = CliRunner().invoke(application, [str(tmp_path), "--description", str(tmp_path), "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: `output` must be a new folder")
