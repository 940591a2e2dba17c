"""AdamW and Muon, their learning rate, which parameters decay, and the average of the weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup_lr_rate

from training.recipe import TrainingRecipe

UNDECAYED = {"A_log", "D"}
# Parts of the names of what is left to AdamW though it is a matrix or a kernel: the first and last layers, tables that
# are looked up in, and the low-rank maps behind step sizes and prompts, whose start is chosen with care.
UNORTHOGONAL = (
    "conv_in.",
    "conv_out.",
    "stages.0.branches.",
    "description_head.out_proj.",
    "class_embedding.",
    "prompts.",
    "dt_proj.",
)
MUON_MOMENTUM = 0.95
# Newton-Schulz's polynomial a x + b x^3 + c x^5 (Jordan et al., 2024), which five times over takes (0, 1] near 1.
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5
# Makes the root mean square of Muon's step that of AdamW's usual one (Liu et al., 2025, arXiv:2502.16982).
ADAMW_RMS = 0.2


class MuonWithAdamW(AdamW):
    """Muon for the groups that have a `momentum`, AdamW for the others: one state, one learning rate.

    A kernel counts as the matrix (out, in * h * w). `torch.optim.Muon` refuses kernels, and its bfloat16 is slower on
    processors than the float32 used here; on matrices both take the same steps.

    Args:
        groups: parameters, `weight_decay` and perhaps `momentum` of each, in [0, 1).
        lr: of both.
        betas: AdamW's.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, lr=lr, betas=betas, fused=True)
        self._step_supports_amp_scaling = False  # else fp16's scaler leaves it to `step` to skip what is not finite

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; those of Muon's are None afterwards.

        Args:
            closure: computes the loss and its gradients anew.

        Returns:
            Its loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"] if "momentum" in group else ():
                if parameter.grad is not None:
                    self._step_matrix(parameter, group)
                    parameter.grad = None  # so that AdamW passes it over
        super().step()
        return loss

    def _step_matrix(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
            state["step"] = torch.zeros(())  # not counted; AdamW looks for it when a state is loaded
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonalize(gradient.lerp(state["momentum"], group["momentum"]).flatten(1))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        length = ADAMW_RMS * math.sqrt(max(update.shape))
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * length)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near 1, by Newton-Schulz (Jordan et al., 2024).

    Args:
        matrix: (M, N), floating point.

    Returns:
        A matrix of the same singular vectors; those of its values that were not tiny lie in about [0.7, 1.2].
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def build_optimizer(model: nn.Module, training: TrainingRecipe) -> AdamW:
    """Build the optimiser over the parameters that train; frozen ones are left out.

    Args:
        model: its parameters.
        training: optimiser, learning rate, betas and weight decay.

    Returns:
        AdamW with one group that decays and one that does not, before which Muon has one of its own.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    # Paper: weight decay 1e-4. Here: on matrices and kernels only, because a norm's scale, a bias or a state's decay
    # rate pulled towards zero changes what the layer does instead of keeping its weights small.
    groups = [
        {"params": [p for name, p in trained if _decays(name, p)], "weight_decay": training.weight_decay},
        {"params": [p for name, p in trained if not _decays(name, p)], "weight_decay": 0.0},
    ]
    if training.optimizer == "adamw":
        return AdamW(groups, lr=training.lr, betas=training.betas, fused=True)
    # Paper: AdamW. Here: with `optimizer` "muon" its own for hidden layers, because that may learn in fewer steps.
    hidden = {p for name, p in trained if _is_hidden(name, p)}
    groups[0]["params"] = [p for p in groups[0]["params"] if p not in hidden]
    matrices = [p for _, p in trained if p in hidden]
    muon = {"params": matrices, "weight_decay": training.weight_decay, "momentum": MUON_MOMENTUM}
    return MuonWithAdamW([muon, *groups], training.lr, training.betas)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in UNDECAYED


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether Muon takes a parameter: matrices and kernels, no depthwise ones, and none of `UNORTHOGONAL`."""
    is_matrix = parameter.ndim in (2, 4) and min(parameter.shape[:2]) > 1
    return is_matrix and _decays(name, parameter) and not any(part in name for part in UNORTHOGONAL)


def build_schedule(optimizer: AdamW, training: TrainingRecipe) -> LambdaLR:
    """Build the learning rate: a linear warm-up, then what takes it to the final rate, reached at the last step.

    With `decay_steps` n that is the constant rate and over the last n steps one minus the root of the share of them
    that is done, which ends lower than a straight line and near a cosine over the whole length (Haegele et al., 2024,
    arXiv:2405.18392). Without, a cosine.

    Args:
        optimizer: whose rate it sets.
        training: rates and lengths.
    """
    if training.decay_steps is not None:
        return LambdaLR(optimizer, _constant_then_decay(training))
    return get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
        optimizer, training.warmup_steps, training.steps, min_lr=training.final_lr
    )


def _constant_then_decay(training: TrainingRecipe) -> Callable[[int], float]:
    """Return the function that maps a step to its share of the highest rate."""
    final, constant_until = training.final_lr / training.lr, training.steps - training.decay_steps

    def share(step: int) -> float:
        if step < training.warmup_steps:
            return (step + 1) / training.warmup_steps
        done = min(max(step + 1 - constant_until, 0) / training.decay_steps, 1.0)
        return 1 - (1 - final) * math.sqrt(done)

    return share


def restore_rate(schedule: LambdaLR) -> None:
    """Set the rate of the step at which a loaded schedule stands; what was loaded follows the length of back then.

    Args:
        schedule: as `build_schedule` made it, its state loaded.
    """
    for group, highest, share in zip(
        schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = highest * share(schedule.last_epoch)


def find_trained_parts(model: nn.Module) -> list[list[nn.Parameter]]:
    """List the parameters that train of each part of a model: of a restorer its extractor, its head, its network.

    Args:
        model: as built or prepared, not wrapped.
    """
    parts = ([one for one in part.parameters() if one.requires_grad] for part in model.children())
    return [part for part in parts if part]


def clip_parts(parts: Sequence[Sequence[nn.Parameter]], longest: float) -> Tensor:
    """Shorten the gradient of each part by itself, so that the extractor never shortens the network's.

    Args:
        parts: from `find_trained_parts`.
        longest: length to which a part's gradient is shortened.

    Returns:
        Length of the whole gradient before, a scalar.
    """
    norms = [nn.utils.clip_grad_norm_(part, longest) for part in parts]
    return torch.stack([one.full_tensor() if isinstance(one, DTensor) else one for one in norms]).norm()


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

    Returns:
        A module of the same parameters and buffers, as `AveragedModel` reads them.
    """
    parameters = list(model.parameters())
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return model
    whole = nn.ParameterList(p.full_tensor() if isinstance(p, DTensor) else p for p in parameters)
    for place, buffer in enumerate(model.buffers()):
        whole.register_buffer(f"buffer{place}", buffer)
    return whole
