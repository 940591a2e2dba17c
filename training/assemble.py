"""Put a trained restorer, the head that describes and the records of all trainings into one folder, to be shipped.

`python -m training.assemble RESTORER --description DESCRIBER --earlier EXTRACTOR --sources SOURCES.csv -o OUT`
"""

import copy
import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import PreTrainedModel

from dpmambair.files import new_folder
from dpmambair.shipped import ATTRIBUTION
from modeling_dpmambair import (
    DegradationExtractorForDescription,
    DegradationExtractorModel,
    DPMambaIRModel,
    load_model,
)
from training.average import AVERAGE
from training.checkpoints import find_checkpoint
from training.journal import Journal
from training.scenes import SCENES
from training.stages import save_trained

LOG = "log.jsonl"
RECIPE = "recipe.json"
BEST = "best.json"
# Records of models that no run of train_accelerate.py left: of which they are the mean, or what they learnt from.
UNTRAINED = (AVERAGE, SCENES)
# Of the attribution of photographs.
COLUMNS = ("file", "title", "author", "licence", "source")
ADDRESS = re.compile(r"<\S+@\S+>")


def assemble(
    restorer: Path,
    output: Path,
    description: Path | None = None,
    earlier: Sequence[Path] = (),
    sources: Path | None = None,
) -> Path:
    """Write a restorer with what its trainings left on record: recipe, log and loss plot, in `training/RUN`.

    The folder carries no code: it lies beside the package, and publishing adds the code.

    Args:
        restorer: folder of a run of the stage "restorer", or of its best weights, `RUN/best`.
        output: new folder.
        description: the same of the stage "describe", trained on that restorer's extractor, or of the stage
            "extractor" if a head that describes pre-trained along with it; None ships none.
        earlier: folders of the runs that came before: the extractor's, and those that `restorer` started from.
        sources: CSV file that names the author and the licence of every photograph, with the columns `COLUMNS` and
            `original_name`, which takes the place of a missing title; None writes no attribution.

    Returns:
        The new folder.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: a folder lacks its model or its records.
        ValueError: the description has no head, was trained on another extractor, or has another head than the
            restorer reads; two runs have one name; or `sources` lacks a column.
    """
    if output.exists():
        raise FileExistsError(f"`output` must be a new folder, got {str(output)!r}; remove it, or name another")
    trained = [restorer] if description is None else [restorer, description]
    for folder in trained:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{str(folder)!r} must hold a trained model, got a folder without config.json; "
                "train to the end, or name the run's folder best"
            )
    runs = _name_runs([*earlier, *trained])
    model = load_model(restorer)
    if description is not None:
        _check_describes(description)
        _check_same_extractor(model, description)
        if model.config.reads_description:
            _check_same_head(model, description)
        model.load_description(description)
    attribution = None if sources is None else _read_attribution(sources)
    with new_folder(output) as unfinished:
        save_trained(model, unfinished)
        _drop_code(unfinished)
        for name, folder in runs.items():
            _copy_records(folder, unfinished / "training" / name)
        if attribution is not None:
            _write_attribution(attribution, unfinished / ATTRIBUTION)
    return output


def _read_attribution(path: Path) -> list[dict[str, str]]:
    """Read who took each photograph, under which licence, and where it comes from; e-mail addresses stay behind."""
    needed = (*COLUMNS, "original_name")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if absent := [name for name in needed if not rows or name not in rows[0]]:
        raise ValueError(
            f"`sources` must have the columns {', '.join(needed)}, got {path.name} without {absent[0]}; add it"
        )
    titled = (row | {"title": row["title"] or Path(row["original_name"]).stem} for row in rows)
    return [{name: " ".join(ADDRESS.sub("", row[name]).split()) for name in COLUMNS} for row in titled]


def _write_attribution(rows: list[dict[str, str]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _name_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Name each folder after its run; two of one name would overwrite each other's records."""
    runs: dict[str, Path] = {}
    for folder in folders:
        name = _find_run(folder).name
        if name in runs:
            raise ValueError(f"runs must have different names, got {name!r} twice; rename a folder")
        runs[name] = folder
    return runs


def _find_run(folder: Path) -> Path:
    """Return the folder of the run that left a model: the model's own, or the one above `best`."""
    folder = folder.resolve()
    for run in (folder, folder.parent):
        if any((run / record).is_file() for record in (LOG, *UNTRAINED)):
            return run
    raise FileNotFoundError(f"{str(folder)!r} must be a run's folder, got one without {LOG}; name a folder of a run")


def _copy_records(folder: Path, target: Path) -> None:
    run = _find_run(folder)
    target.mkdir(parents=True)
    for record in UNTRAINED:
        if (run / record).is_file():
            shutil.copyfile(run / record, target / record)
            return
    shutil.copyfile(run / LOG, target / LOG)
    (target / RECIPE).write_text(json.dumps(_read_recipe(run), indent=2) + "\n")
    Journal(target / LOG).plot(target / "loss.png")
    if (folder / BEST).is_file():  # the weights are those of a validation: tell of which
        shutil.copyfile(folder / BEST, target / BEST)


def _read_recipe(run: Path) -> dict[str, Any]:
    """Read the recipe of a run; one that was stopped before its last step has it in its checkpoints."""
    if (run / RECIPE).is_file():
        return json.loads((run / RECIPE).read_text())
    return find_checkpoint(run)[1]["recipe"]


def _drop_code(folder: Path) -> None:
    """Delete the copies of our files that saving carries, and what refers to them."""
    for path in folder.glob("*.py"):
        path.unlink()
    for path in folder.glob("*.json"):
        path.write_text(json.dumps(_without_auto_map(json.loads(path.read_text())), indent=2) + "\n")


def _without_auto_map(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {name: _without_auto_map(value) for name, value in content.items() if name != "auto_map"}


def _check_describes(description: Path) -> None:
    _, report = DegradationExtractorForDescription.from_pretrained(description, output_loading_info=True)
    if report["missing_keys"]:
        raise ValueError(
            f"`description` must hold a head that describes, got {str(description)!r} without "
            f"{sorted(report['missing_keys'])[0]}; name a run of the stage describe"
        )


def _check_same_extractor(model: DPMambaIRModel, description: Path) -> None:
    ours = _merged_weights(model)
    theirs = _merged_weights(DegradationExtractorModel.from_pretrained(description))
    is_same = ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape and torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours
    )
    if not is_same:
        raise ValueError(
            f"`description` must be trained on the restorer's extractor, got {str(description)!r} with another; "
            "train it with --set model.extractor=RESTORER"
        )


def _check_same_head(model: DPMambaIRModel, description: Path) -> None:
    """Refuse another head than the restorer reads: with it, the restorer would restore differently."""
    theirs = DegradationExtractorForDescription.from_pretrained(description).description_head.state_dict()
    if not all(torch.equal(ours, theirs[name]) for name, ours in model.description_head.state_dict().items()):
        raise ValueError(
            f"`description` must be the head that the restorer reads, got {str(description)!r} with another; "
            "name the run that its training took it from"
        )


def _merged_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    extractor = DegradationExtractorModel(copy.deepcopy(model.base_model.config))  # merging is noted in it
    extractor.load_state_dict(model.base_model.state_dict())
    extractor.reparameterize()
    return extractor.state_dict()


def main(
    restorer: Annotated[Path, typer.Argument(help="Folder of a restorer's run, or its folder best.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the model and the records.")],
    description: Annotated[Path | None, typer.Option(help="Folder of the description head's run.")] = None,
    earlier: Annotated[
        list[Path] | None, typer.Option(help="Folder of a run that came before, for its records; repeatable.")
    ] = None,
    sources: Annotated[
        Path | None, typer.Option(help=f"CSV file of the photographs' authors and licences, for {ATTRIBUTION}.")
    ] = None,
) -> None:
    """Put a trained restorer, the head that describes and the records of all trainings into one folder."""
    try:
        assemble(restorer, output, description, earlier or (), sources)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"assembled; the model is in {output}")


if __name__ == "__main__":
    typer.run(main)
