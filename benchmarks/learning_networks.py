"""What `benchmarks.learning` trains: candidates by name, their networks and their losses."""

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import analysis
from benchmarks.learning_pictures import Batch
from modeling_dpmambair import DegradationExtractorForDescription, DPMambaIRModel
from training.recipe import ModelRecipe, Recipe, TrainingRecipe
from training.stages import build_stage

# What a candidate's section `training` leaves open. Its `steps` are the whole budget, whatever that is: `warmup_steps`
# and `decay_steps` are thousandths of it.
TRAINING = {"steps": 1000, "batch_size": 8, "patch_schedule": [[0, 64]], "lr": 1e-3, "mixed_precision": "no"}
# Added to a picture's squared error before its logarithm, as NAFNet's authors do.
LEAST_ERROR = 1e-8
COUNTED_SIDE = 256


@dataclass(frozen=True)
class Candidate:
    """A network and how it is trained.

    Attributes:
        name: key in the file of candidates.
        network: how it is built: `config` and `overrides` of ours, or `class`, `arguments` and perhaps `film` (the
            class of the blocks whose output the embedding scales and shifts) of a peer.
        loss: "own" for the model's own, or a name of `LOSSES`.
        training: optimiser, batch and patch, and rates over its `steps`, which are stretched over the budget.
        definition: all of it, as JSON gives it, and the settings that it leaves open.
    """

    name: str
    network: dict[str, Any]
    loss: str
    training: TrainingRecipe
    definition: dict[str, Any] = field(repr=False)

    @property
    def side(self) -> int:
        """Side of its patches, pixels."""
        return self.training.patch_schedule[0][1]


def read_candidates(path: Path) -> dict[str, Candidate]:
    """Read a file of candidates.

    Args:
        path: JSON: name to `network`, `loss` and `training`, settings of `TrainingRecipe`; one that `extends` another
            states only what differs.

    Raises:
        ValueError: a candidate breaks a rule.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: parse_candidate(name, _resolve(name, content, ())) for name in content}


def _resolve(name: str, content: dict[str, Any], extending: tuple[str, ...]) -> dict[str, Any]:
    if name in extending or name not in content:
        raise ValueError(f"`extends` must name another candidate without a circle, got {name!r}; correct it")
    own = dict(content[name])
    if "extends" not in own:
        return own
    return _merge(_resolve(own.pop("extends"), content, (*extending, name)), own)


def _merge(base: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merge(base[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | above | nested


def parse_candidate(name: str, definition: dict[str, Any]) -> Candidate:
    """Check a candidate's definition.

    Args:
        name: its name.
        definition: as JSON gives it, nothing left to extend.

    Raises:
        ValueError: a key, the loss, the network or a setting of the training is unknown or breaks its rule.
    """
    unknown = sorted(set(definition) - {"network", "loss", "training"})
    network, loss = definition.get("network", {}), definition.get("loss", "own")
    if unknown:
        raise ValueError(f"{name!r} must have network, loss and training, got {unknown[0]!r}; correct it")
    if ("config" in network) == ("class" in network):
        raise ValueError(f"`network` of {name!r} must have either `config` or `class`, got {network!r}; give one")
    choices = [*LOSSES, *(["own"] if "config" in network else [])]
    if loss not in choices:
        raise ValueError(f"`loss` of {name!r} must be one of {', '.join(choices)}, got {loss!r}; choose one")
    settings = TRAINING | definition.get("training", {})
    training = Recipe.from_dict({"training": settings}).training
    if not isinstance(training.batch_size, int) or len(training.patch_schedule) > 1:
        raise ValueError(
            f"`training` of {name!r} must keep one batch size and one patch side, got more; give one each"
        )
    return Candidate(name, network, loss, training, definition | {"training": settings})


def build_network(candidate: Candidate, extractor: Path) -> nn.Module:
    """Build a candidate's network with random weights, on a trained extractor where it has one.

    Args:
        candidate: what to build.
        extractor: folder of the trained extractor, or of a restorer that has one.
    """
    network = candidate.network
    if "config" in network:
        # Patches are stored without what befell them: the head that describes is read, not trained.
        overrides = network.get("overrides", {}) | {"description_weight": 0.0}
        return build_stage(ModelRecipe("restorer", network["config"], overrides, extractor=str(extractor))).model
    module, _, name = network["class"].rpartition(".")
    peer = getattr(importlib.import_module(module), name)(**network.get("arguments", {}))
    if "film" not in network:
        return peer
    loaded = DegradationExtractorForDescription.from_pretrained(str(extractor))
    loaded.extractor.reparameterize()  # one convolution is faster than its branches
    return ModulatedPeer(peer, loaded, network["film"])


class ModulatedBlock(nn.Module):
    """A block of a peer, whose output the embedding scales and shifts; at the start it changes nothing.

    Args:
        block: the peer's own.
        embedding_dim: width E of the embedding.
        channels: C of the block's output.
    """

    def __init__(self, block: nn.Module, embedding_dim: int, channels: int) -> None:
        super().__init__()
        self.block, self.film = block, nn.Linear(embedding_dim, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.embedding: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W) under the embedding that was set, (B, E)."""
        gain, shift = self.film(self.embedding)[:, :, None, None].chunk(2, 1)
        return self.block(x) * (1 + gain) + shift


class ModulatedPeer(nn.Module):
    """A peer that is given what our extractor and its head say as gain and shift of each block's output.

    Args:
        peer: maps (B, 3, H, W) to the same shape.
        extractor: trained, and fine-tuned with the peer as with our light network; its head stays as it is.
        block: name of the class of the blocks.

    Raises:
        ValueError: the peer has no such blocks.
    """

    def __init__(self, peer: nn.Module, extractor: DegradationExtractorForDescription, block: str) -> None:
        super().__init__()
        self.peer, self.extractor = peer, extractor
        extractor.extractor.requires_grad_(True)
        extractor.description_head.requires_grad_(False)
        with torch.no_grad():
            width = extractor.description_head.read(torch.zeros(1, extractor.config.embedding_dim)).shape[1]
        names = [name for name, module in peer.named_modules() if type(module).__name__ == block]
        if not names:
            raise ValueError(f"`film` must name a class of the network's blocks, got {block!r}; correct it")
        channels = _count_channels(peer, names)
        for name in names:
            peer.set_submodule(name, ModulatedBlock(peer.get_submodule(name), width, channels[name]))

    def forward(self, x: Tensor) -> Tensor:
        """Restore pictures, (B, 3, H, W), RGB in [0, 1]."""
        embedding = self.extractor.description_head.read(self.extractor.extractor(x).degradation_embedding)
        blocks = [module for module in self.modules() if isinstance(module, ModulatedBlock)]
        for block in blocks:
            block.embedding = embedding
        restored = self.peer(x)
        for block in blocks:
            block.embedding = None
        return restored


@torch.no_grad()
def _count_channels(peer: nn.Module, names: list[str]) -> dict[str, int]:
    channels: dict[str, int] = {}
    hooks = [
        peer.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: channels.update({name: output.shape[1]})
        )
        for name in names
    ]
    peer(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return channels


def restore(network: nn.Module, degraded: Tensor, classes: Tensor) -> Tensor:
    """Restore pictures with one of ours or a peer.

    Args:
        network: from `build_network`.
        degraded: (B, 3, H, W), RGB in [0, 1].
        classes: what each suffers most from, by its place in `KINDS`, (B,); read by networks of class labels alone.
    """
    if isinstance(network, DPMambaIRModel):
        return network(degraded, **_tell(network, classes)).reconstruction
    return network(degraded)


def reads_classes(network: nn.Module) -> bool:
    """Tell whether a network is given class labels instead of looking at the picture.

    Args:
        network: from `build_network`.
    """
    return isinstance(network, DPMambaIRModel) and network.config.embedding_source == "class_label"


def _tell(network: DPMambaIRModel, classes: Tensor) -> dict[str, Tensor]:
    return {"class_labels": classes} if reads_classes(network) else {}


def compute_loss(network: nn.Module, loss: str, batch: Batch) -> Tensor:
    """Run the forward of a training step.

    Args:
        network: from `build_network`.
        loss: the candidate's.
        batch: what it is computed on.

    Returns:
        A scalar.
    """
    if loss == "own":
        return network(pixel_values=batch.degraded, labels=batch.clean, **_tell(network, batch.classes)).loss
    return LOSSES[loss](restore(network, batch.degraded, batch.classes), batch.clean)


def logarithm(restored: Tensor, clean: Tensor) -> Tensor:
    """Return the mean natural logarithm of each picture's mean squared error.

    Args:
        restored: (B, 3, H, W).
        clean: of the same shape.
    """
    return torch.log((restored - clean).square().mean((1, 2, 3)) + LEAST_ERROR).mean()


def negative_psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """Return NAFNet's loss: ten times the decimal logarithm of each picture's mean squared error, averaged.

    Args:
        restored: (B, 3, H, W).
        clean: of the same shape.
    """
    return 10 / math.log(10) * logarithm(restored, clean)


def equation_11(restored: Tensor, clean: Tensor) -> Tensor:
    """Return Eq. 11 with the paper's weights.

    Args:
        restored: (B, 3, H, W).
        clean: of the same shape.
    """
    spectrum = torch.view_as_real(torch.fft.rfft2(restored - clean)).abs().mean()
    return F.l1_loss(restored, clean) + 0.5 * F.mse_loss(restored, clean) + 0.001 * spectrum


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "psnr": negative_psnr,
    "eq11": equation_11,
    "log": logarithm,
}


def count_cost(network: nn.Module) -> dict[str, float]:
    """Count what a network has and costs, by the paper's convention.

    Args:
        network: from `build_network`.

    Returns:
        `trained` and `parameters`; `macs` and `scan_flops` for each pixel of a picture of 256 x 256.
    """
    parameters = list(network.parameters())
    counts = {
        "trained": sum(one.numel() for one in parameters if one.requires_grad),
        "parameters": sum(one.numel() for one in parameters),
    }
    if isinstance(network, DPMambaIRModel):
        cost = analysis.count_cost(network, COUNTED_SIDE, COUNTED_SIDE)
        macs, scan = cost.macs, cost.scan_flops
    else:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, COUNTED_SIDE, COUNTED_SIDE))
        macs, scan = counter.get_total_flops() // 2, 0
    return counts | {"macs": macs / COUNTED_SIDE**2, "scan_flops": scan / COUNTED_SIDE**2}
