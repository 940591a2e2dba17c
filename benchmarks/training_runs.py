"""Count what weights learned from: `python -m benchmarks.training_runs checkpoints/dpmambair-light --gpu card`.

Nothing is measured: steps and hours are those of the logs beside the weights, patches and pixels follow from them by
the recipes. Runs on several processes would count as one of them.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.files import RESULTS, write_text
from benchmarks.training_runs_table import render_training_runs
from training.journal import Journal
from training.recipe import Recipe


def count_run(folder: Path) -> dict[str, Any]:
    """Count what a run learned from until its last logged step.

    Args:
        folder: holds `recipe.json` and `log.jsonl`.

    Returns:
        `name`, `stage`, `steps`, `patches`, `pixels`, and `hours` by the clock, validations among them.
    """
    recipe = Recipe.from_file(folder / "recipe.json")
    last = [record for record in Journal(folder / "log.jsonl").read() if "seconds" in record][-1]
    training = recipe.training
    stretches = [
        (training.accumulation_steps * patches * (min(end, last["step"]) - start), side)
        for patches, side, start, end in training.phases()
        if start < last["step"]
    ]
    return {
        "name": folder.name,
        "stage": recipe.model.stage,
        "steps": last["step"],
        "patches": sum(patches for patches, _ in stretches),
        "pixels": sum(patches * side**2 for patches, side in stretches),
        "hours": last["seconds"] / 3600,
    }


def main(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of weights and their logs.")],
    gpu: Annotated[list[str] | None, typer.Option(help="A run that used a GPU; give it for each.")] = None,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "training_runs.json",
) -> None:
    """Count what weights learned from, and in how many hours."""
    runs = [count_run(log.parent) for log in sorted((model / "training").glob("*/log.jsonl"))]
    names = [one["name"] for one in runs]
    for name in gpu or []:
        if name not in names:
            raise typer.BadParameter(f"`gpu` must be one of {', '.join(names) or 'no runs'}, got {name!r}; correct it")
    results = {
        "model": model.resolve().name,
        "runs": [one | {"device": "GPU" if one["name"] in (gpu or []) else "CPU"} for one in runs],
    }
    write_text(output, json.dumps(results, indent=2) + "\n")
    print(render_training_runs(results))


if __name__ == "__main__":
    typer.run(main)
