"""The block: DP-SSM mixer and feed-forward, and the two other ways to show it the embedding."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_dpmambair import DPMambaIRConfig
from .layers_dpmambair import (
    DepthwiseConv2d,
    GatedFeedForward,
    GatedNorm,
    HighFrequencyEnhancement,
    ZeroStartLinear,
)
from .selective_scan_dpmambair import ScanPrompts, prompted_selective_scan

# Tokens that the embedding is cut into where features attend to it.
EMBEDDING_TOKENS = 8


class PromptMap(nn.Module):
    """The map M of one prompt: linear, GELU, linear whose zero start leaves the block a plain Mamba block."""

    def __init__(self, config: DPMambaIRConfig, out_features: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.condition_dim, config.prompt_dim)
        self.out_proj = ZeroStartLinear(config.prompt_dim, out_features)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map the embedding (B, E) to (B, out_features), float32."""
        return self.out_proj(F.gelu(self.in_proj(embedding))).float()


class PromptedScan(nn.Module):
    """One direction of the prompt selective scan: convolution, projections, scan, gated norm (Eqs. 7-9)."""

    def __init__(self, config: DPMambaIRConfig, dim: int, is_reversed: bool = False) -> None:
        super().__init__()
        channels, self.dt_rank, self.d_state = dim * config.expand, config.dt_rank(dim), config.d_state
        self.is_reversed, self.discretization = is_reversed, config.discretization
        self.conv = DepthwiseConv2d(channels, config.d_conv, bias=True)
        self.x_proj = nn.Linear(channels, self.dt_rank + 2 * self.d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, channels)
        # Whatever the default is: half precision would bend an exponential over thousands of steps.
        self.A_log = nn.Parameter(torch.empty(channels, self.d_state, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(channels, dtype=torch.float32))
        self.norm = GatedNorm(channels, eps=config.layer_norm_eps)
        widths = {"delta": channels, "B": self.d_state, "C": self.d_state}
        self.prompts = nn.ModuleDict({name: PromptMap(config, widths[name]) for name in config.prompts})

    def compute_prompts(self, embedding: torch.Tensor) -> ScanPrompts:
        """Return alpha_Delta (B, D), alpha_B and alpha_C (B, N) of Eq. 8, float32; ones where switched off."""
        ones = embedding.new_ones(len(embedding), self.d_state, dtype=torch.float32)
        factors = {"delta": embedding.new_ones(len(embedding), len(self.D), dtype=torch.float32), "B": ones, "C": ones}
        for name, prompt in self.prompts.items():
            m = prompt(embedding)
            # Paper: leaves the range of alpha_Delta open; here: exp(3 tanh(m / 3)), because Delta_dp must stay
            # positive, and a factor beyond e^3 either way would leave the steps that the scan was initialised for.
            factors[name] = torch.exp(3 * torch.tanh(m / 3)) if name == "delta" else 1 + m
        return ScanPrompts(factors["delta"], factors["B"], factors["C"])

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute what the scan reads (Eq. 7).

        Args:
            x: the scanned branch F1, (B, H, W, D).

        Returns:
            u (B, L, D), dt before bias and softplus (B, L, D), B and C (B, L, N).
        """
        u = self.conv.silu(x).flatten(1, 2)  # (B, H, W, D) -> (B, L, D)
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return u, F.linear(dt, self.dt_proj.weight), B, C

    def forward(self, x: torch.Tensor, gate: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Scan row-major.

        Args:
            x: the scanned branch F1, (B, H, W, D).
            gate: the gate branch F2, (B, H, W, D).
            embedding: degradation embeddings, (B, E).

        Returns:
            Scan output, normalised and gated, (B, H, W, D).
        """
        u, dt, B, C = self.project(x)
        A, D, kind = self.compute_constants(embedding)
        return self.norm(prompted_selective_scan(u, dt, A, B, C, D, **kind).view_as(x), gate)

    def compute_constants(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Return A, D and what the scan takes by name: all that does not change along the sequence."""
        kind = {"is_reversed": self.is_reversed, "discretization": self.discretization}
        prompts, bias = self.compute_prompts(embedding), self.dt_proj.bias.float()
        return -torch.exp(self.A_log.float()), self.D.float(), {"dt_bias": bias, "prompts": prompts, **kind}


class DegradationPromptMixer(nn.Module):
    """Degradation-aware prompt state space mixer (DP-SSM): a scanned branch F1 and a branch F2 that gates it.

    With two directions a second scan with weights of its own runs from the last pixel to the first; the outputs add.
    """

    def __init__(self, config: DPMambaIRConfig, dim: int) -> None:
        super().__init__()
        channels = dim * config.expand
        self.in_proj = nn.Linear(dim, 2 * channels, bias=False)
        self.scan = PromptedScan(config, dim)
        self.reverse_scan = PromptedScan(config, dim, is_reversed=True) if config.scan_directions == 2 else None
        linear = ZeroStartLinear if config.zero_start == "branches" else nn.Linear
        self.out_proj = linear(channels, dim, bias=False)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Mix features (B, H, W, C) under the embedding (B, E)."""
        branch, gate = self.project(x)
        scanned = self.scan(branch, gate, embedding)
        if self.reverse_scan is not None:
            scanned = scanned + self.reverse_scan(branch, gate, embedding)
        return self.out_proj(scanned)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the branches F1 and F2, (B, H, W, D) each, of features (B, H, W, C)."""
        # Two products rather than one and a split: the convolution after it would copy half of interleaved rows.
        to_branch, to_gate = self.in_proj.weight.chunk(2)
        return F.linear(x, to_branch), F.linear(x, to_gate)


class EmbeddingConcatenation(nn.Module):
    """Show the embedding to a block by concatenation: each pixel's features and the mapped embedding, then linear."""

    def __init__(self, config: DPMambaIRConfig, dim: int) -> None:
        super().__init__()
        self.embed = nn.Linear(config.condition_dim, config.prompt_dim)
        self.fuse = nn.Linear(dim + config.prompt_dim, dim)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        mapped = self.embed(embedding)[:, None, None].expand(*x.shape[:3], -1)
        return self.fuse(torch.cat([x, mapped], -1))


class EmbeddingAttention(nn.Module):
    """Show the embedding to a block by attention: each pixel's features attend to tokens cut from it."""

    def __init__(self, config: DPMambaIRConfig, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, config.prompt_dim)
        self.key_value = nn.Linear(config.condition_dim, 2 * EMBEDDING_TOKENS * config.prompt_dim)
        self.out_proj = ZeroStartLinear(config.prompt_dim, dim)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        query = self.query(x).flatten(1, 2)  # (B, L, h)
        key, value = self.key_value(embedding).view(len(x), EMBEDDING_TOKENS, -1).chunk(2, dim=-1)  # (B, T, h) each
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.out_proj(attended).view_as(x)


class FeatureModulation(nn.Module):
    """Scale and shift features by the embedding (FiLM); a zero start leaves them as they are.

    Paper: the embedding enters through Delta, B and C alone; here, with `has_film`, also directly, because those reach
    the features only through the scan's norm and are learnt slowly.
    """

    def __init__(self, config: DPMambaIRConfig, dim: int) -> None:
        super().__init__()
        self.film = ZeroStartLinear(config.condition_dim, 2 * dim)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        scale, shift = self.film(embedding).to(x.dtype)[:, None, None].chunk(2, dim=-1)
        return torch.addcmul(shift, x, 1 + scale)


class DPMambaIRBlock(GradientCheckpointingLayer):
    """x + HEB(DP-SSM(norm(x), E)), then x + GDFN(norm(x)); without a mixer the second alone.

    Args:
        config: the model's.
        dim: channels C.
        has_mixer: whether it holds the DP-SSM.
    """

    def __init__(self, config: DPMambaIRConfig, dim: int, has_mixer: bool = True) -> None:
        super().__init__()
        self.mixer = None
        if has_mixer:
            self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
            insertion = {"concatenation": EmbeddingConcatenation, "attention": EmbeddingAttention}.get(
                config.insertion
            )
            self.insertion = insertion(config, dim) if insertion else None
            self.mixer = DegradationPromptMixer(config, dim)
            self.mixer_modulation = FeatureModulation(config, dim) if config.has_film else None
            self.heb = HighFrequencyEnhancement() if config.has_heb else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.ffn = GatedFeedForward(dim, config.ffn_ratio, has_zero_start=config.zero_start == "branches")
        self.ffn_modulation = FeatureModulation(config, dim) if config.has_film else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        if self.mixer is not None:
            x = x + self.mix(x, embedding)
        return x + self.feed(x, embedding)

    def mix(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return what the mixer adds to features (B, H, W, C) under the embedding (B, E)."""
        mixed = self.mixer(self.prepare(x, embedding), embedding)
        return self.heb(mixed if self.mixer_modulation is None else self.mixer_modulation(mixed, embedding))

    def feed(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return what the feed-forward adds to features (B, H, W, C) under the embedding (B, E)."""
        fed = self.ffn(self.norm2(x))
        return fed if self.ffn_modulation is None else self.ffn_modulation(fed, embedding)

    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return what the mixer mixes, (B, H, W, C)."""
        normed = self.norm1(x)
        return normed if self.insertion is None else self.insertion(normed, embedding)
