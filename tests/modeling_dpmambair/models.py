"""What the tests of the models share: small configurations, weights that start at no special value, pictures."""

from typing import TypeVar

import torch
from torch import nn

from modeling_dpmambair import DegradationExtractorConfig, DPMambaIRConfig, DPMambaIRModel

Module = TypeVar("Module", bound=nn.Module)

EXTRACTOR = {
    "channels": [4, 6, 5, 8], "kernel_sizes": [3, 5], "embedding_dim": 8, "reconstruction_dim": 4,
    "description_dim": 6, "degradations": ["haze", "rain", "noise"],
}  # fmt: skip
RESTORER = {
    "dim": 4, "encoder_depths": [1, 1, 1], "latent_depth": 1, "decoder_depths": [1, 1, 1], "refinement_depth": 1,
    "d_state": 3, "expand": 1, "prompt_dim": 4,
}  # fmt: skip


def small_extractor_config(**changes: object) -> DegradationExtractorConfig:
    """Configuration of an extractor of a few thousand weights."""
    return DegradationExtractorConfig(**{**EXTRACTOR, **changes})


def small_config(extractor: dict | None = None, **changes: object) -> DPMambaIRConfig:
    """Configuration of a restorer that runs in milliseconds."""
    return DPMambaIRConfig(**{**RESTORER, **changes}, extractor_config={**EXTRACTOR, **(extractor or {})})


@torch.no_grad()
def randomized(model: Module, scale: float = 0.1) -> Module:
    """Move every parameter off its start, zeros and ones among them."""
    for parameter in model.parameters():
        parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def small_model(extractor: dict | None = None, **changes: object) -> DPMambaIRModel:
    """Return a small restorer that changes pictures."""
    return randomized(DPMambaIRModel(small_config(extractor, **changes)))


def pictures(batch: int = 2, height: int = 11, width: int = 18) -> torch.Tensor:
    """Return pictures of random values, (B, 3, H, W)."""
    return torch.rand(batch, 3, height, width)


def assert_same_weights(model: nn.Module, other: nn.Module) -> None:
    """Check that two models have the same tensors, bit for bit.

    Their outputs may still differ in the last bit: reloaded weights stand elsewhere in memory, and BLAS minds.
    """
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
