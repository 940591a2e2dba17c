"""Count what each model costs, beside the paper's figures: `python -m benchmarks.cost`.

Nothing is computed and nothing is timed: the counts depend on the configuration alone, not on the machine.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from benchmarks.analysis import count_cost
from benchmarks.cost_table import cost_grid
from benchmarks.files import RESULTS, write_text
from benchmarks.rendering import format_columns
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel

MODELS = Path(__file__).resolve().parents[1] / "configuration" / "model"
# The size at which the paper counts, pixels.
SIDE = 256


@dataclass(frozen=True)
class Variant:
    """One model of the table.

    Attributes:
        name: what the table calls it.
        model: the configuration in `configuration/model` that it starts from.
        changes: fields of `DPMambaIRConfig` that differ.
        extractor_changes: fields of its `DegradationExtractorConfig` that differ.
        paper: the paper's `parameters` and `flops`, those of the two that it gives.
    """

    name: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    extractor_changes: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)

    def build_config(self) -> DPMambaIRConfig:
        """Read the model's configuration and make the changes."""
        settings = json.loads((MODELS / f"{self.model}.json").read_text(encoding="utf-8"))
        extractor = settings["extractor_config"] | self.extractor_changes
        return DPMambaIRConfig.from_dict(settings | self.changes | {"extractor_config": extractor})


# The paper's two-direction model has no C prompt: the way back gives the global view instead (Table 5).
TWO_DIRECTIONS = {"scan_directions": 2, "prompts": ["delta", "B"]}

# The paper's figures: Table 5, and v3's tables IV (costs) and VII (embedding widths).
VARIANTS = (
    Variant("base", "base", paper={"parameters": 29.35e6, "flops": 153.33e9}),
    Variant("base, two directions", "base", TWO_DIRECTIONS, paper={"parameters": 31.43e6, "flops": 244.3e9}),
    Variant("base, embedding 256", "base", {}, {"embedding_dim": 256}, {"parameters": 28.71e6}),
    Variant("base, embedding 384", "base", {}, {"embedding_dim": 384}, {"parameters": 29.03e6}),
    Variant("base, embedding 1024", "base", {}, {"embedding_dim": 1024}, {"parameters": 30.62e6}),
    Variant("base-L (branches kept)", "base", {}, {"is_merged": False}),
    Variant("small", "small"),
    Variant("small, two directions", "small", TWO_DIRECTIONS),
    Variant("light", "light"),
    Variant("tiny", "tiny"),
    Variant("tiny, two directions", "tiny", TWO_DIRECTIONS),
)


def count(variant: Variant) -> dict[str, Any]:
    """Count a variant.

    Args:
        variant: what to count.

    Returns:
        `name`, `parameters`, `macs`, `scan_flops`, and `paper`, the paper's `parameters` and `flops` if it gives them.
    """
    with torch.device("meta"):
        model = DPMambaIRModel(variant.build_config())
    return {"name": variant.name, **count_cost(model, SIDE, SIDE)._asdict(), "paper": variant.paper}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="JSON file to write.", show_default="the tables' own")] = (
        RESULTS / "cost.json"
    ),
) -> None:
    """Print parameters and operations of every model, and write them for the tables."""
    rows = [count(variant) for variant in tqdm(VARIANTS, unit="model", disable=None)]
    results = {"height": SIDE, "width": SIDE, "models": rows}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(cost_grid(results)))


if __name__ == "__main__":
    app()
