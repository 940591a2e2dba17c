"""What a run would be, told before it starts: parameters, memory, steps, schedule and sample counts."""

from itertools import pairwise

import torch
from torch import nn

from modeling_dpmambair import DegradationExtractorForDescription, DegradationExtractorForPreTraining
from training.optimization import build_optimizer, build_schedule
from training.pictures import count_pictures
from training.recipe import Recipe, TrainingRecipe
from training.stages import build_untrained

PROBED_SIDE = 64  # pixels; activations grow with the area, so a small patch tells of a large one


def describe_plan(recipe: Recipe, precision: str, processes: int) -> str:
    """Tell what a recipe would do, without doing it.

    Args:
        recipe: what would be trained.
        precision: "no", "bf16" or "fp16".
        processes: how many would train.

    Returns:
        Lines of text. Memory is that of the weights, their gradients and moments and the averaged weights, exact,
        and of the activations kept for the backward pass, measured on one small patch and scaled by the area; LPIPS
        and the work space of single operations come on top.
    """
    model, training = build_untrained(recipe.model), recipe.training
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    pictures = _count_pictures(recipe)
    samples = training.count_patches(0, training.steps) * processes
    epochs = f", {samples / pictures:.1f} epochs of {pictures:,} pictures" if pictures else ""
    lines = [
        f"stage        {recipe.model.stage}",
        f"parameters   {total:,}, of which {trained:,} train",
        f"steps        {training.steps:,} of {training.accumulation_steps} pass(es) in {processes} process(es)",
        f"samples      {samples:,} patches{epochs}",
        *_describe_schedule(model, training),
        *_describe_memory(model, recipe, precision, total, trained),
    ]
    return "\n".join(lines)


def _count_pictures(recipe: Recipe) -> int:
    return count_pictures(recipe.data) if recipe.data.clean_dirs or recipe.data.corpora_dir else 0


def _describe_schedule(model: nn.Module, training: TrainingRecipe) -> list[str]:
    optimizer = build_optimizer(model, training)
    rate = build_schedule(optimizer, training).lr_lambdas[0]
    decay = training.steps - (training.decay_steps or training.steps)
    marks = sorted({0, training.warmup_steps, training.steps // 2, decay, training.steps - 1})
    rates = ", ".join(f"{training.lr * rate(step):.2e} at step {step:,}" for step in marks)
    ends = [*training.patch_schedule, (training.patch_cycle or training.steps, 0)]
    sides = ", ".join(f"{side} to step {end:,}" for (_, side), (end, _) in pairwise(ends))
    again = "" if training.patch_cycle is None else ", and again"
    batches = ", ".join(f"{patches} to step {end:,}" for patches, _, end in training.batch_phases())
    return [
        f"rate         {rates}",
        f"patches      side {sides}{again}",
        f"batch        {batches}, a pass and process",
    ]


def _describe_memory(model: nn.Module, recipe: Recipe, precision: str, total: int, trained: int) -> list[str]:
    batch_size, side = _find_largest(recipe.training)
    scale = batch_size * (side / PROBED_SIDE) ** 2
    activations = scale * measure_activations(model, recipe, precision)
    muon = [group for group in build_optimizer(model, recipe.training).param_groups if "momentum" in group]
    single = sum(parameter.numel() for group in muon for parameter in group["params"])
    # float32: weights and their average; gradients and two moments, of which Muon keeps one
    states = 4 * (2 * total + 3 * trained - single)
    return [
        f"memory       {(states + activations) / 1e9:.2f} GB a process: {states / 1e9:.2f} GB weights, gradients, "
        f"moments and average; {activations / 1e9:.2f} GB activations of {batch_size} at side {side} in {precision} "
        "(estimated)"
    ]


def _find_largest(training: TrainingRecipe) -> tuple[int, int]:
    """Return batch size and side of the patches where a forward pass has the most pixels."""
    forms = {(patches, side) for patches, side, *_ in training.phases()}
    return max(forms, key=lambda form: form[0] * form[1] ** 2)


def measure_activations(model: nn.Module, recipe: Recipe, precision: str) -> int:
    """Measure what one patch keeps for the backward pass, in bytes.

    Args:
        model: the stage's, on the CPU.
        recipe: tells whether activations are recomputed.
        precision: "no", "bf16" or "fp16", which is measured as bf16.
    """
    if recipe.training.activation_checkpointing:
        model.activation_checkpointing_enable()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    patch = torch.rand(1, 3, PROBED_SIDE, PROBED_SIDE)
    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision != "no"),
    ):
        loss = _any_loss(model, patch)
    del loss  # alive until here, so that no storage is counted twice under one address
    return sum(kept.values())


def _any_loss(model: nn.Module, patch: torch.Tensor) -> torch.Tensor:
    """A scalar that depends on all that the model computes; its value does not matter."""
    if isinstance(model, DegradationExtractorForPreTraining):
        embedding = model.extractor(patch).degradation_embedding
        return model.reconstruction_unit(patch, embedding).sum()
    if isinstance(model, DegradationExtractorForDescription):
        return model(patch).presence.sum()
    config = model.config
    given = {"class_labels": torch.zeros(1, dtype=torch.long)} if config.embedding_source == "class_label" else {}
    severity = torch.zeros(1, len(config.extractor_config.degradations))
    return model(patch, labels=patch, severity=severity, **given).loss
