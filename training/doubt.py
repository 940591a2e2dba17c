"""Teach a restorer to doubt: `python -m training.doubt MODEL --clean DIR -o OUT`.

The head that describes is often unsure of whole scenes: a misty morning, dusk, a pale wall. A network that goes by its
guess then repaints pictures that nothing had spoiled. Where no degradation is sure, it is rather told what it is told
of undamaged pictures. Nothing is trained: what it is told of those is measured.
"""

from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from dataset_scripts.synthetic_restoration import list_photographs
from dpmambair.files import new_folder
from modeling_dpmambair import DPMambaIRModel, Restorer, read_picture
from modeling_dpmambair.modeling_degradation_extractor import DegradationHead
from training.stages import save_trained

# Up to the first presence a degradation is doubted wholly, from the second on not at all; found on photographs that
# training holds out, undamaged, and damaged at severity 0.5, which lose next to nothing. Dusk a scene may have of
# itself, and a mistake is large. So is one about haze, but of much that is hazy the head is no surer than of a pale
# scene.
LOW_LIGHT, WEATHER, OTHERS = (0.8, 0.9), (0.2, 0.5), (0.05, 0.2)
SURE = MappingProxyType({"low_light": LOW_LIGHT, "haze": WEATHER, "rain": WEATHER, "snow": WEATHER})
# Photographs of which the head finds no degradation likelier than this are those that it takes for undamaged.
UNDAMAGED_PRESENCE = 0.1


@torch.no_grad()
def doubt(model: DPMambaIRModel, embeddings: Tensor) -> DPMambaIRModel:
    """Build the restorer that reads of undamaged pictures where no degradation is sure, and is otherwise the same.

    Args:
        model: a restorer that reads its description.
        embeddings: of undamaged photographs, (N, E).

    Raises:
        ValueError: the model does not read its description, or takes none of the photographs for undamaged.
    """
    if not model.config.reads_description:
        raise ValueError(
            "`model` must read its description to doubt it, got reads_description false; take one trained with it"
        )
    config = type(model.config).from_dict(model.config.to_dict() | {"has_doubt": True})
    kinds, plain = config.extractor_config.degradations, DegradationHead(config.extractor_config)
    plain.load_state_dict(model.description_head.state_dict(), strict=False)  # without an earlier doubt
    presence, _ = plain(embeddings)
    is_undamaged = presence.sigmoid().amax(-1) < UNDAMAGED_PRESENCE
    if not is_undamaged.any():
        raise ValueError(
            f"`clean` must hold some photographs that the model takes for undamaged, got {len(embeddings)} others; "
            "give more"
        )
    doubted, sure = torch.tensor([SURE.get(kind, OTHERS) for kind in kinds]).T
    found = {"undamaged": plain.read(embeddings[is_undamaged]).mean(0), "doubted": doubted, "sure": sure}
    doubting = DPMambaIRModel(config)
    doubting.load_state_dict(
        model.state_dict() | {f"description_head.{name}": tensor for name, tensor in found.items()}
    )
    return doubting.eval()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a restorer.")],
    clean: Annotated[list[Path], typer.Option(exists=True, file_okay=False, help="Clean photographs; repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    every: Annotated[int, typer.Option(min=1, help="Look at one of so many.")] = 10,
) -> None:
    """Write a restorer that leaves a picture alone where it is not sure that something had spoiled it."""
    if output.exists():
        raise typer.BadParameter(f"`output` must be a new folder, got {str(output)!r}; remove it, or name another")
    try:
        restorer = Restorer.from_pretrained(model, dtype="float32")
        photographs = list_photographs(clean)[::every]
        embeddings = [restorer.embed(read_picture(each.path)) for each in tqdm(photographs, unit="photograph")]
        doubting = doubt(restorer.model, torch.cat(embeddings))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    with new_folder(output) as unfinished:
        save_trained(doubting, unfinished)


if __name__ == "__main__":
    app()
