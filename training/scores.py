"""What a validation measures: how much better pictures became, or how well degradations were described."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef
from transformers.utils import ModelOutput

from restoration_metrics import psnr, ssim

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Scores:
    """What a validation found.

    Attributes:
        loss: mean of the model's loss over the kinds.
        quality: the one number by which checkpoints are compared; higher is better.
        numbers: all that was measured, by name, for the log.
        pictures: rows of three to look at, (3, H, W) each; none where a stage makes no pictures.
    """

    loss: float
    quality: float
    numbers: dict[str, float]
    pictures: list[Tensor] = field(default_factory=list)


def score_pictures(
    outputs: Mapping[str, ModelOutput], batches: Mapping[str, Batch], source: str, target: str
) -> Scores:
    """Score rebuilt pictures; the quality is the mean gain in dB over the kinds.

    Args:
        outputs: per kind what the model returned, with `loss` and `reconstruction`, and perhaps `presence`, (B, K).
        batches: per kind its batch; with `presence` also the true `severity`, (B, K).
        source: name of the batch's pictures, (B, 3, H, W) in [0, 1], that the model started from.
        target: name of those that the reconstruction should equal.

    Returns:
        Per kind the loss, PSNR, gain (PSNR minus the source's, dB) and SSIM; source, reconstruction and target of the
        first patch of each kind. Of a model that also tells what is present, per kind the share told right, and their
        mean as `accuracy`.
    """
    numbers, gains, rows = {}, [], []
    for kind, output in outputs.items():
        before, truth = batches[kind][source], batches[kind][target]
        rebuilt = output.reconstruction.float().clamp(0, 1)
        reached = psnr(rebuilt, truth)
        gains.append(_mean_of_finite(reached - psnr(before, truth)))
        numbers[f"loss_{kind}"] = float(output.loss)
        numbers[f"psnr_{kind}"] = _mean_of_finite(reached)
        numbers[f"ssim_{kind}"] = float(ssim(rebuilt, truth).mean())
        numbers[f"gain_{kind}"] = gains[-1]
        rows += [picture[0].cpu() for picture in (before, rebuilt, truth)]
    if all("presence" in output for output in outputs.values()):
        numbers |= _score_presence(outputs, batches)
    return Scores(_mean_loss(outputs), sum(gains) / len(gains), numbers, rows)


def score_descriptions(outputs: Mapping[str, ModelOutput], batches: Mapping[str, Batch]) -> Scores:
    """Score descriptions of single degradations; the quality is the mean of accuracy and rank correlation.

    Args:
        outputs: per kind what the model returned, with `loss`, `presence` and `severity`, (B, K) in [0, 1].
        batches: per kind its batch, with the true `severity`, (B, K), one entry of each row above 0.

    Returns:
        Per kind the loss, the share whose most probable degradation is the true one, and Spearman's rank correlation
        of its severity; their means over the kinds as `accuracy` and `spearman`.
    """
    spearman = {}
    for kind, output in outputs.items():
        truth = batches[kind]["severity"]
        column = truth.argmax(-1, keepdim=True)
        ranks = output.severity.float().gather(1, column)[:, 0], truth.gather(1, column)[:, 0]
        spearman[f"spearman_{kind}"] = float(spearman_corrcoef(*ranks))
    numbers = _score_presence(outputs, batches)
    numbers |= {"spearman": sum(spearman.values()) / len(spearman)} | spearman
    numbers |= {f"loss_{kind}": float(output.loss) for kind, output in outputs.items()}
    return Scores(_mean_loss(outputs), (numbers["accuracy"] + numbers["spearman"]) / 2, numbers)


def _score_presence(outputs: Mapping[str, ModelOutput], batches: Mapping[str, Batch]) -> dict[str, float]:
    """Share of the patches whose most probable degradation is the most severe one: per kind, and their mean."""
    accuracy = {
        f"accuracy_{kind}": float((output.presence.argmax(-1) == batches[kind]["severity"].argmax(-1)).float().mean())
        for kind, output in outputs.items()
    }
    return {"accuracy": sum(accuracy.values()) / len(accuracy)} | accuracy


def _mean_loss(outputs: Mapping[str, ModelOutput]) -> float:
    return math.fsum(float(output.loss) for output in outputs.values()) / len(outputs)


def _mean_of_finite(values: Tensor) -> float:
    """Mean without what has no PSNR: a flat patch that the kind leaves as it is. All such: 0."""
    finite = values[torch.isfinite(values)]
    return float(finite.mean()) if len(finite) else 0.0
