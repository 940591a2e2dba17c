"""What a restorer costs, and what an embedding does to its scans."""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from modeling_dpmambair import DPMambaIRModel
from modeling_dpmambair.block_dpmambair import DegradationPromptMixer, DPMambaIRBlock, PromptedScan
from modeling_dpmambair.layers_dpmambair import CentralDifferenceBranches


class ModelCost(NamedTuple):
    """What one picture costs.

    Attributes:
        parameters: of the whole model, extractor included.
        macs: multiply-accumulates of convolutions, linear layers and matrix products.
        scan_flops: operations of the selective scans.
    """

    parameters: int
    macs: int
    scan_flops: int


class BlockPrompts(NamedTuple):
    """What one scan makes of the embedding of B pictures.

    Attributes:
        alpha_delta: factor of the step size, (B, D).
        alpha_B: factor of the input matrix, (B, N).
        alpha_C: factor of the output matrix, (B, N).
        delta_mean: mean of the effective step size over positions and channels, (B,).
        delta_std: its standard deviation, (B,).
        delta_median: its median, (B,).
    """

    alpha_delta: torch.Tensor
    alpha_B: torch.Tensor
    alpha_C: torch.Tensor
    delta_mean: torch.Tensor
    delta_std: torch.Tensor
    delta_median: torch.Tensor


def count_cost(model: DPMambaIRModel, height: int, width: int) -> ModelCost:
    """Count parameters and multiply-accumulates for one picture, by the paper's convention (extractor included).

    Convolutions, linear layers and matrix products count one per multiply-accumulate; a scan of L steps counts
    9 L D N + L D. What the paper computes and we, by linearity, do not is counted too: unmerged branches each for
    itself, and a second direction's passes through the projections that it shares with the first. Nothing is
    computed: the tensors have no storage.

    Args:
        model: any member of the family; only its configuration counts.
        height: of the picture, pixels.
        width: likewise.
    """
    extra = {"scan": 0, "shared": 0, "branches": 0}

    def count_scan(scan: PromptedScan, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        extra["scan"] += math.prod(inputs[0].shape[1:3]) * (9 * scan.A_log.numel() + scan.D.numel())

    def count_shared(mixer: DegradationPromptMixer, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        if mixer.reverse_scan is not None:
            weights = mixer.in_proj.weight.numel() + mixer.out_proj.weight.numel()
            extra["shared"] += math.prod(inputs[0].shape[1:3]) * weights

    def count_branches(branches: CentralDifferenceBranches, _: tuple, output: torch.Tensor) -> None:
        extra["branches"] += math.prod(output.shape[1:3]) * _count_unmerged_weights(branches)

    # With gradients, because without them kernels of our own run, which torch's counter does not know.
    with FakeTensorMode(), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        counted = type(model)(model.config)
        for module in counted.modules():
            if isinstance(module, PromptedScan):
                module.register_forward_pre_hook(count_scan)
            elif isinstance(module, DegradationPromptMixer):
                module.register_forward_pre_hook(count_shared)
            elif isinstance(module, CentralDifferenceBranches):
                module.register_forward_hook(count_branches)
        source = model.config.embedding_source
        embedding = None if source == "extractor" else torch.empty(1, model.config.extractor_config.embedding_dim)
        counted(torch.empty(1, 3, height, width), degradation_embedding=embedding)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    macs = counter.get_total_flops() // 2 + extra["shared"] + extra["branches"]
    return ModelCost(parameters, macs, extra["scan"])


def _count_unmerged_weights(branches: CentralDifferenceBranches) -> int:
    """Return how many weights the branches have more than the convolution that equals them; 0 once merged."""
    if branches.is_merged:
        return 0
    kept = branches.plain.weight.numel() + sum(branch.weight.numel() for branch in branches.differences)
    return kept - branches.merged_weight().numel()


@torch.no_grad()
def read_prompts(model: DPMambaIRModel, pixel_values: torch.Tensor) -> dict[str, BlockPrompts]:
    """Read what the embedding of pictures does to every scan (`benchmarks.figures` draws v3's Figure 5 from it).

    Args:
        model: the restorer.
        pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1].

    Returns:
        For the name of each scan its three prompts and its effective step sizes, in the order of the forward.
    """
    readings: dict[str, BlockPrompts] = {}

    def read(name: str, block: DPMambaIRBlock, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        x, embedding = inputs
        if block.mixer is None:
            return
        branch, _ = block.mixer.project(block.prepare(x, embedding))
        for part, scan in block.mixer.named_children():
            if isinstance(scan, PromptedScan):
                steps = compute_step_sizes(scan, branch, embedding).flatten(1)
                spread = steps.mean(1), steps.std(1), steps.median(1).values
                readings[f"{name}.mixer.{part}"] = BlockPrompts(*scan.compute_prompts(embedding), *spread)

    blocks = [(name, module) for name, module in model.named_modules() if isinstance(module, DPMambaIRBlock)]
    hooks = [block.register_forward_pre_hook(functools.partial(read, name)) for name, block in blocks]
    try:
        model(pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    return readings


def compute_step_sizes(scan: PromptedScan, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Return the step sizes Delta_dp that the prompts leave (Eq. 9), (B, L, D), float32.

    Args:
        scan: whose steps.
        x: the scanned branch F1, (B, H, W, D).
        embedding: degradation embeddings, (B, E).
    """
    dt = scan.project(x)[1].float() + scan.dt_proj.bias.float()
    return F.softplus(dt) * scan.compute_prompts(embedding).delta[:, None]
