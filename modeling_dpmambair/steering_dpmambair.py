"""Which kinds of degradation are repaired: an embedding is changed until the model's own head no longer sees the rest.

The network corrects what its embedding tells it of. So what is to stay in a picture is taken out of the embedding: of
all embeddings that the head describes as without it, and otherwise as before, a near one.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .configuration_dpmambair import DPMambaIRConfig
from .modeling_degradation_extractor import DegradationHead

# Weight of the distance, in squared standard deviations of the embedding; 0.3, 2 and 8 were tried on single
# photographs alone. What steering does with it, `python -m benchmarks.steering` measures.
DISTANCE_WEIGHT = 1.0
MOST_STEPS = 50


def choose_kept(config: DPMambaIRConfig, only: Sequence[str] = (), keep: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the kinds of degradation that stay in a picture, in the model's order.

    Args:
        config: the model's.
        only: the kinds that are repaired, all others stay; empty for all.
        keep: the kinds that stay; not beside `only`.

    Raises:
        ValueError: both are given, a kind is unknown, or the model cannot be steered: networks that see the embedding
            alone, without what is told of it, hardly follow.
    """
    if not only and not keep:
        return ()
    if only and keep:
        raise ValueError("`only` must not stand beside `keep`, got both; leave one of them out")
    name, asked = ("only", only) if only else ("keep", keep)
    if not config.reads_description:
        raise ValueError(
            f"`{name}` must be left out for a model that does not read its description, got it; "
            "take one with reads_description, such as checkpoints/dpmambair-light"
        )
    known = config.extractor_config.degradations
    if unknown := [kind for kind in asked if kind not in known]:
        raise ValueError(f"`{name}` must be some of {', '.join(known)}, got {', '.join(unknown)}; check the spelling")
    return tuple(kind for kind in known if (kind in asked) != bool(only))


def steer_embedding(head: DegradationHead, embedding: torch.Tensor, kept: Sequence[int]) -> torch.Tensor:
    """Change embeddings until the head describes them without some kinds, and else as before.

    Minimised are the cross-entropy between the presences wanted and told, the squared errors of the other kinds'
    severities, and the squared distance, each picture by itself.

    Args:
        head: the model's.
        embedding: of pictures, (B, E).
        kept: indices of the kinds to take out.

    Returns:
        The changed embeddings, (B, E).
    """
    # Whatever the caller computes in: this takes many small steps, and needs gradients.
    device = embedding.device.type
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        reader = copy.deepcopy(head).float().requires_grad_(False)
        steered = [_steer_one(reader, each, list(kept)) for each in embedding.detach().clone().float()]
    return torch.stack(steered).to(embedding.dtype)


def _steer_one(head: DegradationHead, start: torch.Tensor, kept: list[int]) -> torch.Tensor:
    presence, severity = (logits.sigmoid() for logits in head(start))
    wanted, weights = presence.clone(), presence.clone()
    wanted[kept] = weights[kept] = 0
    offset = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.LBFGS([offset], max_iter=MOST_STEPS, line_search_fn="strong_wolfe")

    def measure() -> torch.Tensor:
        optimizer.zero_grad()
        told, strengths = head(start + start.std() * offset)
        loss = F.binary_cross_entropy_with_logits(told, wanted, reduction="sum")
        loss = loss + (weights * (strengths.sigmoid() - severity).square()).sum()
        loss = loss + DISTANCE_WEIGHT * offset.square().mean()
        loss.backward()
        return loss

    optimizer.step(measure)
    return (start + start.std() * offset).detach()


__all__ = ["choose_kept", "steer_embedding"]
