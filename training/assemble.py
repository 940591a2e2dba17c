"""Put a trained restorer and the head that describes into one folder, the one that is shipped.

`python -m training.assemble RESTORER --description DESCRIBER -o OUT`
"""

import os
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import PreTrainedModel

from modeling_dpmambair import DegradationExtractorModel, DPMambaIRModel
from training.stages import save_trained

RECORDS = ("recipe.json", "log.jsonl")


def assemble(restorer: Path, description: Path, output: Path) -> DPMambaIRModel:
    """Write a restorer that can also describe, with the recipes and logs of both trainings.

    Args:
        restorer: folder of a finished run of the stage "restorer".
        description: folder of a finished run of the stage "describe" on that restorer's extractor.
        output: new folder; the description's records carry its stage in their names.

    Returns:
        The model.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: a folder lacks its model or its records.
        ValueError: the description was trained on another extractor.
    """
    if output.exists():
        raise FileExistsError(f"`output` must be a new folder, got {str(output)!r}; remove it, or name another")
    for folder in (restorer, description):
        for name in ("config.json", *RECORDS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{str(folder)!r} must be the folder of a finished run, got one without {name}; train to the end"
                )
    model = DPMambaIRModel.from_pretrained(restorer)
    _check_same_extractor(model, description)
    model.load_description(description)
    unfinished = output.with_name(f"{output.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_trained(model, unfinished)
    for name in RECORDS:
        shutil.copyfile(restorer / name, unfinished / name)
        shutil.copyfile(description / name, unfinished / f"describe_{name}")
    os.replace(unfinished, output)
    return model


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


def _merged_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    extractor = DegradationExtractorModel(model.base_model.config)
    extractor.load_state_dict(model.base_model.state_dict())
    extractor.reparameterize()
    return extractor.state_dict()


def main(
    restorer: Annotated[Path, typer.Argument(help="Folder of a finished restorer.")],
    description: Annotated[Path, typer.Option(help="Folder of a finished description head.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the model with both.")],
) -> None:
    """Put a trained restorer and the head that describes into one folder."""
    try:
        assemble(restorer, description, output)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"assembled; the model is in {output}")


if __name__ == "__main__":
    typer.run(main)
