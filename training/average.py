"""Average the weights of runs that went on from one another: `python -m training.average RUN RUN ... -o OUT`.

A run that draws some degradations more often than the one before it gains there and loses elsewhere; between the two
lie weights that lose little of either (Wortsman et al., 2022, "Model soups").
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from dpmambair.files import new_folder
from modeling_dpmambair import DPMambaIRImageProcessor, load_model

# Record of what was averaged, beside the weights.
AVERAGE = "average.json"


def average_weights(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor, computed in float64.

    Args:
        states: weights by name.

    Raises:
        ValueError: the models differ in names or shapes of their weights.
    """
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("`runs` must hold models of one configuration, got others; name runs that went on from one")
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        for name, first in states[0].items()
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Folders of restorers.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
) -> None:
    """Write a restorer whose weights are the mean of others'."""
    if output.exists():
        raise typer.BadParameter(f"`output` must be a new folder, got {str(output)!r}; remove it, or name another")
    try:
        models = [load_model(run) for run in runs]
        models[0].load_state_dict(average_weights([model.state_dict() for model in models]))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with new_folder(output) as unfinished:
        models[0].save_pretrained(unfinished)
        DPMambaIRImageProcessor().save_pretrained(unfinished)
        names = [run.resolve().name for run in runs]
        (unfinished / AVERAGE).write_text(json.dumps({"runs": names}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
