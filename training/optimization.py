"""AdamW, its learning rate, which parameters decay, and the average of the weights."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup_lr_rate

from training.recipe import TrainingRecipe

UNDECAYED = {"A_log", "D"}


def build_optimizer(model: nn.Module, training: TrainingRecipe) -> AdamW:
    """Build AdamW over the parameters that train; frozen ones are left out.

    Args:
        model: its parameters.
        training: learning rate, betas and weight decay.

    Returns:
        The optimiser, with one group that decays and one that does not.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    # Paper: weight decay 1e-4. Here: on matrices and kernels only, because a norm's scale, a bias or a state's decay
    # rate pulled towards zero changes what the layer does instead of keeping its weights small.
    groups = [
        {"params": [p for name, p in trained if _decays(name, p)], "weight_decay": training.weight_decay},
        {"params": [p for name, p in trained if not _decays(name, p)], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=training.lr, betas=training.betas, fused=True)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in UNDECAYED


def build_schedule(optimizer: AdamW, training: TrainingRecipe) -> LambdaLR:
    """Build the learning rate: a linear warm-up, then a cosine that reaches the final rate at the last step.

    Args:
        optimizer: whose rate it sets.
        training: rates and lengths.
    """
    return get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        optimizer, training.warmup_steps, training.steps, min_lr=training.final_lr
    )


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Copy a model into one that follows the exponential average of its weights.

    The decay grows with the steps n, as (1 + n) / (10 + n) up to its final value: otherwise a thousand steps at 0.999
    would still carry a third of the random weights at the start.

    Args:
        model: whose weights are averaged.
        decay: final decay per step, in [0, 1).
    """

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + int(steps)) / (10 + int(steps))))(averaged, current, steps)

    return AveragedModel(model, multi_avg_fn=update)


def gather_parameters(model: nn.Module) -> nn.Module:
    """Return the model, or where its parameters are sharded among processes a list of the whole ones, in their order.

    Args:
        model: as trained; every process must call this.
    """
    parameters = list(model.parameters())
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return model
    return nn.ParameterList(p.full_tensor() if isinstance(p, DTensor) else p for p in parameters)
