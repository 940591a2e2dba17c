"""Calculate how long the paper's training of the restorer takes on several cards: `python -m benchmarks.scaling`.

From the recipe's schedule and the counted cost of a forward pass (`benchmarks.cost`). How fast a card computes is
assumed, or given as measured: `samples_per_second` of a training log, at the side and batch of its last phase.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.files import RESULTS
from benchmarks.rendering import format_markdown
from training.recipe import Recipe, TrainingRecipe

ROOT = Path(__file__).resolve().parents[1]
CARDS = (1, 8, 64)
# Operations a second that a card is assumed to reach, a fifth of an A100's peak in bf16.
OPERATIONS = 60e12
# A backward pass costs two.
FORWARDS_PER_STEP = 3
# Bytes a second between cards of one machine, and between machines: what carries the gradients.
INSIDE, BETWEEN, CARDS_PER_MACHINE = 200e9, 25e9, 8
BYTES_PER_GRADIENT = 4


@dataclass(frozen=True)
class Cost:
    """What one card does in a second.

    Attributes:
        area: pixels that it trains on.
        gradients: numbers that all cards exchange at each step.
    """

    area: float
    gradients: int


def assume_cost(counted: dict[str, Any]) -> Cost:
    """Calculate a card's speed from the counted cost of the base model and the assumed operations.

    Args:
        counted: what `benchmarks.cost` wrote.
    """
    base = next(model for model in counted["models"] if model["name"] == "base")
    # A multiply-accumulate is two operations; those of the scans are counted as such.
    operations = (2 * base["macs"] + base["scan_flops"]) / (counted["height"] * counted["width"])
    return Cost(OPERATIONS / (FORWARDS_PER_STEP * operations), base["parameters"])


def count_area(training: TrainingRecipe) -> int:
    """Count the pixels that a card trains on over the whole schedule.

    Args:
        training: the recipe's section.
    """
    return sum(training.count_patches(start, end) * side**2 for _, side, start, end in training.phases())


def scaling_grid(training: TrainingRecipe, cost: Cost) -> list[list[str]]:
    """Bring the hours of a training into rows, a number of cards each.

    Args:
        training: the recipe's section; every card has its batch.
        cost: of a card.
    """
    grid = [
        ["cards", "all steps of the recipe (h)", "patches seen", "as many patches as one card (h)", "exchange (ms)"]
    ]
    hours = count_area(training) / cost.area / 3600
    for cards in CARDS:
        speed = BETWEEN if cards > CARDS_PER_MACHINE else INSIDE
        # A ring sends each gradient about twice, once to sum and once to tell the sum.
        exchange = 2 * (cards - 1) / cards * cost.gradients * BYTES_PER_GRADIENT / speed
        whole = hours + exchange * training.steps / 3600
        patches = training.count_patches(0, training.steps) * cards
        row = [f"{cards}", f"{whole:.1f}", f"{patches / 1e6:.1f} M", f"{whole / cards:.2f}", f"{1e3 * exchange:.1f}"]
        grid.append(row)
    return grid


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    recipe: Annotated[Path, typer.Option(exists=True, help="Recipe of a restorer.")] = (
        ROOT / "configuration" / "train" / "restorer.json"
    ),
    measured: Annotated[
        float | None, typer.Option(min=0, help="Patches a second of one card, measured in the recipe's last phase.")
    ] = None,
) -> None:
    """Print a table of the hours on 1, 8 and 64 cards."""
    training = Recipe.from_file(recipe).training
    cost = assume_cost(json.loads((RESULTS / "cost.json").read_text()))
    if measured:
        cost = Cost(measured * training.phases()[-1][1] ** 2, cost.gradients)
    typer.echo(format_markdown(scaling_grid(training, cost)))


if __name__ == "__main__":
    app()
