"""Whiten a trained extractor's embedding: `python -m training.whiten MODEL --clean DIR -o OUT`.

Reconstruction alone leaves an embedding that spreads along three directions, brightness and contrast, and hardly along
those in which rain, snow, JPEG and blur differ; what learns from it sees three numbers. Here it is rewritten as
E' = M (E - mean), after which all directions spread alike. M goes into the extractor's last layer and its inverse into
the layers that read the embedding, so the model's outputs stay the same: what is trained on it next learns faster.
A head that pre-trained along with the extractor does not survive this; the describe stage trains another.
With --restart-prompts a restorer forgets the prompts that it learnt from the narrow embedding, to be trained on.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoConfig, PreTrainedModel

from dataset_scripts import DegradedPatches, load_clean_photographs
from dpmambair.files import new_folder
from modeling_dpmambair import (
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DPMambaIRConfig,
    DPMambaIRImageProcessor,
    DPMambaIRModel,
)
from modeling_dpmambair.block_dpmambair import PromptMap

# Share of the mean spread below which a direction counts as noise and is not spread to one.
FLOOR = 0.01
# Names of the linear layers that read the embedding: of prompts, of the other insertions, of what scales and shifts.
READERS = ("in_proj", "embed", "key_value", "film")


def find_whitening(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Find the symmetric M that makes M (E - mean) spread alike in all directions.

    Args:
        embeddings: (samples, E).

    Returns:
        M (E, E) and the mean (E,), float64.
    """
    centred = embeddings.double() - embeddings.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    spread = variances.clamp(min=0).sqrt()
    scale = 1 / (spread + FLOOR * variances.mean().sqrt())
    return directions * scale @ directions.T, embeddings.double().mean(0)


@torch.no_grad()
def whiten(model: PreTrainedModel, embeddings: Tensor) -> Tensor:
    """Rewrite the embedding of a model in place; what the model returns beside it stays the same to rounding.

    Args:
        model: an extractor, or a model that holds one, without a head that describes (its norm lies over the embedding
            itself, so no linear layer after it could undo the change).
        embeddings: of many degraded pictures, (samples, E).

    Returns:
        The embeddings of these pictures from now on, (samples, E).

    Raises:
        ValueError: the model has no extractor, or a head that describes.
    """
    extractors = find_extractors(model)
    matrix, mean = find_whitening(embeddings)
    inverse = torch.linalg.inv(matrix)
    for extractor in extractors:
        extractor.head.bias.copy_(matrix @ (extractor.head.bias.double() - mean))
        for head in (extractor.head, *([extractor.head_out] if extractor.config.head_dim else [])):
            head.weight.copy_(matrix @ head.weight.double())
    for name, reader in model.named_modules():
        is_reader = name.rpartition(".")[2] in READERS and getattr(reader, "in_features", None) == len(mean)
        if is_reader and isinstance(reader, nn.Linear) and _reads_embedding(name):
            reader.bias.add_(reader.weight.double() @ mean)
            reader.weight.copy_(reader.weight.double() @ inverse)
    return ((embeddings.double() - mean) @ matrix.T).to(embeddings.dtype)


@torch.no_grad()
def restart_prompts(model: DPMambaIRModel, embeddings: Tensor) -> None:
    """Start the prompts of a trained restorer anew, in place: each picture gets the mean of what they made of many.

    Prompts that learnt from an embedding of few directions are made of these alone; new ones learn from all.

    Args:
        model: the restorer.
        embeddings: of many degraded pictures, (samples, E).

    Raises:
        ValueError: the model has no prompts.
    """
    for prompt in find_prompts(model):
        prompt.out_proj.bias.copy_(prompt(embeddings).mean(0))
        nn.init.zeros_(prompt.out_proj.weight)
        prompt.in_proj.reset_parameters()


def find_extractors(model: PreTrainedModel) -> list[DegradationExtractorModel]:
    """Find the extractors that whitening changes.

    Args:
        model: an extractor, its pre-training model or a restorer.

    Raises:
        ValueError: the model has no extractor, or a head that describes.
    """
    extractors = [module for module in model.modules() if isinstance(module, DegradationExtractorModel)]
    if not extractors or getattr(model, "description_head", None) is not None:
        raise ValueError(
            "`model` must hold an extractor and no head that describes, got another; whiten before the describe stage"
        )
    return extractors


def find_prompts(model: PreTrainedModel) -> list[PromptMap]:
    """Find the layers that make prompts of the embedding.

    Args:
        model: the restorer.

    Raises:
        ValueError: the model has no prompts.
    """
    prompts = [module for module in model.modules() if isinstance(module, PromptMap)]
    if not prompts:
        raise ValueError("`model` must be a restorer with prompts, got one without; leave --restart-prompts out")
    return prompts


def _reads_embedding(name: str) -> bool:
    return any(part in name for part in (".prompts.", ".insertion.", "_modulation.", "reconstruction_unit."))


@torch.no_grad()
def draw_embeddings(extractor: DegradationExtractorModel, clean: list[Path], samples: int, patch: int) -> Tensor:
    """Embed degraded patches of clean photographs, drawn as in training, (samples, E)."""
    patches = DegradedPatches(load_clean_photographs(clean), patch)
    found: list[Tensor] = []
    with tqdm(total=samples, unit="patch", disable=None) as bar:
        for epoch in range(-(-samples // len(patches))):
            patches.set_epoch(epoch)
            for batch in DataLoader(patches, batch_size=min(16, len(patches)), drop_last=True):
                if len(found) * len(batch["labels"]) >= samples:
                    break
                found.append(extractor(batch["pixel_values"]).degradation_embedding)
                bar.update(len(batch["labels"]))
    return torch.cat(found)


def load(folder: Path) -> PreTrainedModel:
    """Load what a stage left: an extractor, its pre-training model without a head that describes, or a restorer.

    Args:
        folder: of the model.
    """
    config = AutoConfig.from_pretrained(folder)
    if config.model_type == DPMambaIRConfig.model_type:
        return DPMambaIRModel.from_pretrained(folder)
    if "ForPreTraining" in str(config.architectures):
        return DegradationExtractorForPreTraining.from_pretrained(folder, description_weight=0.0)
    return DegradationExtractorModel.from_pretrained(folder)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a trained model.")],
    clean: Annotated[list[Path], typer.Option(exists=True, file_okay=False, help="Clean photographs; repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    samples: Annotated[int, typer.Option(min=256, help="Degraded patches to look at.")] = 4096,
    patch: Annotated[int, typer.Option(min=8, help="Their side, pixels.")] = 128,
    restarts_prompts: Annotated[
        bool, typer.Option("--restart-prompts", help="Start a restorer's prompts anew, at their means.")
    ] = False,
) -> None:
    """Write a model whose embedding spreads alike in all directions and which otherwise does the same."""
    if output.exists():
        raise typer.BadParameter(f"`output` must be a new folder, got {str(output)!r}; remove it, or name another")
    try:
        loaded = load(model).eval()
        extractor, *_ = find_extractors(loaded)
        if restarts_prompts:
            find_prompts(loaded)  # refused now, not after thousands of patches
        embeddings = draw_embeddings(extractor, clean, samples, patch)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    whitened = whiten(loaded, embeddings)
    if restarts_prompts:  # after whitening, which would narrow the new layers to what the old embedding showed
        restart_prompts(loaded, whitened)
    with new_folder(output) as unfinished:
        loaded.save_pretrained(unfinished)
        DPMambaIRImageProcessor().save_pretrained(unfinished)


if __name__ == "__main__":
    app()
