"""Teach a restorer to judge whole scenes: `python -m training.scenes MODEL --clean DIR -o OUT`.

An extractor learns from patches, and on a patch fog and a pale wall look alike; the restorer then repaints pictures
that nothing had spoiled, and mistakes rain for haze. A whole picture tells more, and the extractor reads it window by
window anyway. So its last hidden layer gets further units, trained on what the extractor measures of whole pictures.
All other weights stay, and where the head knew what had spoiled a picture, the restorer is told what it was told
before: it has learnt what to make of that.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm, trange

from dataset_scripts import DegradationRecipe
from dataset_scripts.degradation_recipes import severity_of
from dataset_scripts.degradations import KINDS, apply_degradations
from dataset_scripts.pairing import Photograph
from dataset_scripts.synthetic_restoration import list_photographs
from dataset_scripts.transforms import to_float, to_tensor
from dpmambair.files import new_folder
from modeling_dpmambair import DPMambaIRImageProcessor, DPMambaIRModel, load_model

# Record of what was learnt from, and of what came of it, beside the weights.
SCENES = "scenes.json"
# Pictures of each photograph: undamaged, and damaged; the first undamaged one is the photograph as it is.
UNDAMAGED, DAMAGED = 8, 20
# Of the others, half show the whole scene and half a part, with this share of its sides at least; their longer sides.
LEAST_SHARE, SIDES = 0.6, (320, 740)
# Haze and darkness are what undamaged scenes are taken for.
WEIGHTS = {"haze": 2.0, "low_light": 2.0, "rain": 1.5, "snow": 1.5}
BATCH, EPOCHS, LR, WEIGHT_DECAY, DROPOUT, NOISE = 256, 60, 1e-3, 0.1, 0.2, 0.1
# What an undamaged picture counts in the cross-entropy, where a damaged one counts 1.
UNDAMAGED_WEIGHT = 6.0
# What staying with the embeddings and severities of before counts, where the cross-entropy counts 1.
STAY_WEIGHT = 10.0
# By how much more it does where it is dark: how far to brighten is told by little.
DARK_WEIGHT = 3.0
# Photographs of which the head finds no degradation likelier than this are those that it takes for undamaged.
UNDAMAGED_PRESENCE = 0.1


class Scenes(Dataset):
    """Of each photograph some undamaged and some damaged pictures, drawn from nothing but a seed and its place.

    Args:
        photographs: clean ones.
        kinds: of degradations, some of `KINDS`.
        seed: non-negative.
    """

    def __init__(self, photographs: Sequence[Photograph], kinds: Sequence[str], seed: int = 0) -> None:
        self.photographs, self.seed = photographs, seed
        self.places = [KINDS.index(kind) for kind in kinds]
        undamaged = DegradationRecipe(
            tuple(kinds),
            composite_probability=0.15,
            weights={kind: WEIGHTS.get(kind, 1.0) for kind in kinds},
            # As often where nothing else happens as elsewhere, or a file's traces would tell of damage.
            grey_probability=0.05,
            file_jpeg_probability=0.5,
            identity_probability=1.0,
        )
        plain = replace(undamaged, identity_probability=0.0)
        varied = replace(plain, varied_weather=True, varied_blur=True, varied_light=True)
        self.recipes = [undamaged] * UNDAMAGED + [plain, varied] * (DAMAGED // 2)

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.photographs)

    def __getitem__(self, index: int) -> list[tuple[Tensor, Tensor]]:
        """Return pictures of a photograph, (1, 3, H, W), RGB in [0, 1], and the severity of each kind, (K,)."""
        cv2.setNumThreads(1)  # workers share the processors with the model
        with Image.open(self.photographs[index].path) as file:
            photograph = file.convert("RGB")
        found = []
        for place, recipe in enumerate(self.recipes):
            rng = np.random.default_rng((self.seed, index, place))
            scene, record = (_draw_scene(photograph, rng), recipe.draw(rng)) if place else (photograph, ())
            degraded = np.rint(apply_degradations(to_float(np.asarray(scene)), record) * 255).astype(np.uint8)
            found.append((to_tensor(to_float(degraded))[None], severity_of(record)[self.places]))
        return found


def _draw_scene(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = 1.0 if rng.random() < 0.5 else rng.uniform(LEAST_SHARE, 1)
    width, height = (max(round(share * side), 1) for side in photograph.size)
    left, top = (int(rng.integers(side - own + 1)) for side, own in zip(photograph.size, (width, height), strict=True))
    scale = min(rng.uniform(*SIDES) / max(width, height), 1)
    size = tuple(max(round(scale * side), 1) for side in (width, height))
    return photograph.resize(size, Image.Resampling.LANCZOS, (left, top, left + width, top + height))


@dataclass
class Measures:
    """What an extractor measures of pictures, window by window, one after the other.

    Attributes:
        statistics: of all windows, (W, S).
        picture: the picture of each window, ascending, (W,).
        embedding: of the pictures, (N, E).
        severity: of their degradations, 0 where one is absent, (N, K).
    """

    statistics: Tensor
    picture: Tensor
    embedding: Tensor
    severity: Tensor

    def select(self, chosen: Tensor) -> "Measures":
        """Return those of some pictures, in the order in which they are given.

        Args:
            chosen: places of pictures, (M,).
        """
        counts = torch.bincount(self.picture, minlength=len(self.embedding))
        starts, chosen_counts = (counts.cumsum(0) - counts)[chosen], counts[chosen]
        picture = torch.repeat_interleave(torch.arange(len(chosen)), chosen_counts)
        within = torch.arange(len(picture)) - (chosen_counts.cumsum(0) - chosen_counts)[picture]
        statistics = self.statistics[starts[picture] + within]
        return Measures(statistics, picture, self.embedding[chosen], self.severity[chosen])


@torch.no_grad()
def measure(model: DPMambaIRModel, scenes: Scenes, workers: int = 0) -> Measures:
    """Measure whole pictures, with a progress bar over the photographs.

    Args:
        model: its extractor has a hidden layer.
        scenes: the pictures.
        workers: processes that draw them; 0 draws them here.
    """
    extractor, statistics, embeddings, severities = model.extractor, [], [], []
    hook = extractor.head_hidden.register_forward_pre_hook(lambda _, given: statistics.append(given[0]))
    for photograph in tqdm(DataLoader(scenes, batch_size=None, num_workers=workers), unit="photograph"):
        for picture, severity in photograph:
            embeddings.append(extractor(picture, return_dict=True).degradation_embedding)
            severities.append(severity)
    hook.remove()
    counts = torch.tensor([len(windows) for windows in statistics])
    place = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return Measures(torch.cat(statistics), place, torch.cat(embeddings), torch.stack(severities))


class FurtherUnits(nn.Module):
    """Units of the extractor's hidden layer that add to the embeddings what whole scenes tell; at first nothing.

    Args:
        statistics: how many the extractor measures.
        width: number of units.
        embedding_dim: width of the embeddings.
    """

    def __init__(self, statistics: int, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(statistics, width)
        self.out = nn.Linear(width, embedding_dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, measures: Measures) -> Tensor:
        """Return the embeddings of pictures, (N, E)."""
        statistics = measures.statistics
        if self.training:
            statistics = statistics + NOISE * torch.randn_like(statistics)
        hidden = F.dropout(F.gelu(self.hidden(statistics)), DROPOUT, self.training)
        sums = torch.zeros_like(measures.embedding).index_add(0, measures.picture, self.out(hidden))
        return measures.embedding + sums / torch.bincount(measures.picture)[:, None]

    @torch.no_grad()
    def join(self, model: DPMambaIRModel) -> DPMambaIRModel:
        """Build the restorer whose extractor has these units beside its own.

        Args:
            model: the restorer that they were trained for.
        """
        config, weights = type(model.config).from_dict(model.config.to_dict()), model.state_dict()
        config.extractor_config.head_dim += len(self.hidden.weight)
        for name, further, axis in (
            ("hidden.weight", self.hidden.weight, 0),
            ("hidden.bias", self.hidden.bias, 0),
            ("out.weight", self.out.weight, 1),
        ):
            weights[f"extractor.head_{name}"] = torch.cat([weights[f"extractor.head_{name}"], further], axis)
        joined = DPMambaIRModel(config)
        joined.load_state_dict(weights)
        return joined.eval()


def teach(model: DPMambaIRModel, measures: Measures, width: int, epochs: int, seed: int = 0) -> FurtherUnits:
    """Train further units, with a progress bar; the model stays as it is.

    Args:
        model: reads its description, and its extractor has a hidden layer.
        measures: of the pictures to learn from.
        width: number of units.
        epochs: how often each picture is drawn, on average.
        seed: of all that is random.

    Raises:
        ValueError: the model takes none of the undamaged pictures for undamaged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        units = FurtherUnits(measures.statistics.shape[1], width, measures.embedding.shape[1])
        undamaged, steps = _find_undamaged(model, measures), epochs * -(-len(measures.embedding) // BATCH)
        optimizer = torch.optim.AdamW(units.parameters(), LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in trange(steps, unit="step"):
            batch = measures.select(torch.randint(len(measures.embedding), (BATCH,)))
            loss = scenes_loss(model, units(batch), batch, undamaged)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return units.eval()


@torch.no_grad()
def _find_undamaged(model: DPMambaIRModel, measures: Measures) -> Tensor:
    """Return the mean of the normalised embeddings of what is undamaged, and taken for it, (E,)."""
    presence, _ = model.description_head(measures.embedding)
    is_undamaged = (measures.severity.amax(-1) == 0) & (presence.sigmoid().amax(-1) < UNDAMAGED_PRESENCE)
    if not is_undamaged.any():
        raise ValueError(
            "`clean` must hold some photographs that the model takes for undamaged, got none; give more of them"
        )
    return model.description_head.norm(measures.embedding[is_undamaged]).mean(0)


def scenes_loss(model: DPMambaIRModel, embedding: Tensor, before: Measures, undamaged: Tensor) -> Tensor:
    """Return how wrongly pictures are described, and how far those move that were described rightly, a scalar.

    Args:
        model: has the head that describes.
        embedding: of pictures, (N, E).
        before: what was measured of them.
        undamaged: where the normalised embeddings of undamaged pictures should go, (E,).
    """
    head, is_there = model.description_head, (before.severity > 0).float()
    with torch.no_grad():
        known, severity_before = (logits.sigmoid() for logits in head(before.embedding))
        is_clean = is_there.amax(-1) == 0
        target = torch.where(is_clean[:, None], undamaged, head.norm(before.embedding))
        # How much of what is there the head knew before.
        share = (known * is_there).sum(-1) / is_there.sum(-1).clamp(min=1)
        is_dark = is_there[:, [kind == "low_light" for kind in model.config.extractor_config.degradations]].any(-1)
        held = torch.where(is_dark, DARK_WEIGHT, 1.0)
    presence, severity = head(embedding)
    cross_entropy = F.binary_cross_entropy_with_logits(presence, is_there, reduction="none").mean(-1)
    described = (torch.where(is_clean, UNDAMAGED_WEIGHT, 1.0) * cross_entropy).mean()
    moved = (head.norm(embedding) - target).square().mean(-1)
    drift = (held[:, None] * known * is_there * (severity.sigmoid() - severity_before).square()).sum()
    stayed = (torch.where(is_clean, 1.0, held * share.square()) * moved).mean() + drift / is_there.sum().clamp(min=1)
    return described + STAY_WEIGHT * stayed


@torch.no_grad()
def judge(model: DPMambaIRModel, embedding: Tensor, severity: Tensor) -> dict[str, float]:
    """Tell how often the head describes pictures wrongly: finds damage where there is none, or misses what is there.

    Args:
        model: has the head that describes.
        embedding: of pictures, (N, E).
        severity: of their degradations, (N, K).

    Returns:
        `undamaged_taken_for_damaged` and `degradations_missed`, each a share of 0 to 1.
    """
    found, is_there = model.description_head(embedding)[0] > 0, severity > 0
    is_clean = ~is_there.any(-1)
    return {
        "undamaged_taken_for_damaged": found[is_clean].any(-1).float().mean().item(),
        "degradations_missed": (~found)[is_there].float().mean().item(),
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a restorer.")],
    clean: Annotated[list[Path], typer.Option(exists=True, file_okay=False, help="Clean photographs; repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    width: Annotated[int, typer.Option(min=1, help="Units to add.")] = 512,
    epochs: Annotated[int, typer.Option(min=1, help="How often each picture is learnt from.")] = EPOCHS,
    held_out_every: Annotated[int, typer.Option(min=2, help="Photographs held out, as by the training.")] = 20,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw pictures.")] = 1,
) -> None:
    """Write a restorer whose extractor also knows whole scenes, and print how well it describes those held out."""
    if output.exists():
        raise typer.BadParameter(f"`output` must be a new folder, got {str(output)!r}; remove it, or name another")
    started = time.monotonic()
    try:
        restorer = load_model(model).requires_grad_(False)
        _check_teachable(restorer)
        photographs = list_photographs(clean)
        kinds = restorer.config.extractor_config.degradations
        held_out = photographs[::held_out_every]
        kept = [each for place, each in enumerate(photographs) if place % held_out_every]
        others, measures = (measure(restorer, Scenes(some, kinds), workers) for some in (held_out, kept))
        units = teach(restorer, measures, width, epochs)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    taught = units.join(restorer)
    record = {
        "model": model.resolve().name,
        "photographs": len(kept),
        "pictures": len(measures.embedding),
        "width": width,
        "epochs": epochs,
        "seconds": time.monotonic() - started,
        "held_out": len(held_out),
        "before": judge(restorer, others.embedding, others.severity),
        "after": judge(restorer, units(others).detach(), others.severity),
    }
    with new_folder(output) as unfinished:
        taught.save_pretrained(unfinished)
        DPMambaIRImageProcessor().save_pretrained(unfinished)
        (unfinished / SCENES).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


def _check_teachable(model: DPMambaIRModel) -> None:
    config = model.config
    if not config.reads_description or config.extractor_config.head_dim is None:
        raise ValueError(
            "`model` must read its description, of an extractor with a hidden layer, got reads_description "
            f"{config.reads_description} and head_dim {config.extractor_config.head_dim}; take one trained with both"
        )


if __name__ == "__main__":
    app()
