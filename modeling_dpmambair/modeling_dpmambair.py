"""DPMambaIR: prompt scan, block, U-shaped network and the restorer around it (arXiv:2504.17732v1)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .configuration_dpmambair import DPMambaIRConfig
from .layers_dpmambair import (
    ChannelsLastConv2d,
    Downsample,
    GatedFeedForward,
    HighFrequencyEnhancement,
    Upsample,
    ZeroStartConv2d,
    ZeroStartLinear,
)
from .modeling_degradation_extractor import (
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DPMambaIRPreTrainedModel,
)
from .selective_scan_dpmambair import ScanPrompts, prompted_selective_scan

# Three halvings: heights and widths are padded to a multiple of this.
SIZE_MULTIPLE = 8


@dataclass
class DPMambaIROutput(ModelOutput):
    """What the restorer returns.

    Attributes:
        loss: Eq. 11, a scalar; only with `labels`.
        reconstruction: restored pictures, (B, 3, H, W), RGB, not clamped.
        degradation_embedding: what spoiled the pictures, (B, E).
        hidden_states: features after each stage, (B, H', W', C') each; only on request.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    degradation_embedding: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class PromptMap(nn.Module):
    """The map M of one prompt: linear, GELU, linear whose zero start leaves the block a plain Mamba block."""

    def __init__(self, config: DPMambaIRConfig, out_features: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.extractor_config.embedding_dim, config.prompt_dim)
        self.out_proj = ZeroStartLinear(config.prompt_dim, out_features)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map the embedding (B, E) to (B, out_features), float32."""
        return self.out_proj(F.gelu(self.in_proj(embedding))).float()


class PromptedScan(nn.Module):
    """One direction of the prompt selective scan: convolution, projections, scan, norm (Eqs. 7-9)."""

    def __init__(self, config: DPMambaIRConfig, dim: int) -> None:
        super().__init__()
        channels, self.dt_rank, self.d_state = dim * config.expand, config.dt_rank(dim), config.d_state
        self.conv = ChannelsLastConv2d(channels, channels, config.d_conv, groups=channels)
        self.x_proj = nn.Linear(channels, self.dt_rank + 2 * self.d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, channels)
        self.A_log = nn.Parameter(torch.empty(channels, self.d_state))
        self.D = nn.Parameter(torch.empty(channels))
        self.norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
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

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Scan row-major.

        Args:
            x: the scanned branch F1, (B, H, W, D).
            embedding: degradation embeddings, (B, E).

        Returns:
            Normalised scan output, (B, H, W, D).
        """
        u = F.silu(self.conv(x)).flatten(1, 2)  # (B, H, W, D) -> (B, L, D)
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = F.linear(dt, self.dt_proj.weight)
        A = -torch.exp(self.A_log.float())
        y = prompted_selective_scan(
            u, dt, A, B, C, self.D.float(), dt_bias=self.dt_proj.bias.float(), prompts=self.compute_prompts(embedding)
        )
        return self.norm(y).view_as(x)


class DegradationPromptMixer(nn.Module):
    """Degradation-aware prompt state space mixer (DP-SSM): a scanned branch F1 and a branch F2 that gates it."""

    def __init__(self, config: DPMambaIRConfig, dim: int) -> None:
        super().__init__()
        channels = dim * config.expand
        self.in_proj = nn.Linear(dim, 2 * channels, bias=False)
        self.scan = PromptedScan(config, dim)
        self.out_proj = nn.Linear(channels, dim, bias=False)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Mix features (B, H, W, C) under the embedding (B, E)."""
        scanned, gate = self.in_proj(x).chunk(2, dim=-1)
        return self.out_proj(self.scan(scanned, embedding) * F.silu(gate))


class DPMambaIRBlock(GradientCheckpointingLayer):
    """x + HEB(DP-SSM(norm(x), E)), then x + GDFN(norm(x))."""

    def __init__(self, config: DPMambaIRConfig, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mixer = DegradationPromptMixer(config, dim)
        self.heb = HighFrequencyEnhancement() if config.has_heb else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.ffn = GatedFeedForward(dim, config.ffn_ratio)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        x = x + self.heb(self.mixer(self.norm1(x), embedding))
        return x + self.ffn(self.norm2(x))


class DPMambaIRStage(nn.Module):
    """Blocks of one width, one after the other."""

    def __init__(self, config: DPMambaIRConfig, dim: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DPMambaIRBlock(config, dim) for _ in range(depth))

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        for block in self.blocks:
            x = block(x, embedding)
        return x


class DPMambaIRNetwork(nn.Module):
    """The U: three encoder stages, a latent one, three decoder stages with skips, a refinement (Fig. 2)."""

    def __init__(self, config: DPMambaIRConfig) -> None:
        super().__init__()
        dim, depths = config.dim, config.decoder_depths
        self.conv_in = ChannelsLastConv2d(3, dim, 3, bias=False)
        self.encoder = nn.ModuleList(
            DPMambaIRStage(config, dim << level, depth) for level, depth in enumerate(config.encoder_depths)
        )
        self.down = nn.ModuleList(Downsample(dim << level) for level in range(3))
        self.latent = DPMambaIRStage(config, dim << 3, config.latent_depth)
        self.up = nn.ModuleList(Upsample(dim << level) for level in (3, 2, 1))
        self.reduce = nn.ModuleList(nn.Linear(dim << level, dim << (level - 1), bias=False) for level in (3, 2))
        # At full resolution the skip is not reduced: decoder and refinement keep both halves, 2 dim channels.
        self.decoder = nn.ModuleList(
            DPMambaIRStage(config, dim << max(level, 1), depths[level]) for level in (2, 1, 0)
        )
        self.refinement = DPMambaIRStage(config, 2 * dim, config.refinement_depth)
        self.conv_out = ZeroStartConv2d(2 * dim, 3, 3, bias=False)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Compute the correction of a picture.

        Args:
            x: pictures, (B, H, W, 3), H and W multiples of 8.
            embedding: degradation embeddings, (B, E).

        Returns:
            What to add to the pictures, (B, H, W, 3) in float32, and the features after each stage.
        """
        x = self.conv_in(x)
        skips = []
        for stage, down in zip(self.encoder, self.down, strict=True):
            skips.append(stage(x, embedding))
            x = down(skips[-1])
        hidden_states = [*skips, self.latent(x, embedding)]
        x = hidden_states[-1]
        for step, (up, stage) in enumerate(zip(self.up, self.decoder, strict=True)):
            x = torch.cat([up(x), skips.pop()], -1)
            x = stage(self.reduce[step](x) if step < len(self.reduce) else x, embedding)
            hidden_states.append(x)
        hidden_states.append(self.refinement(x, embedding))
        # The correction is often a few grey levels; eight bits of mantissa would round it away.
        with torch.autocast(x.device.type, enabled=False):
            correction = self.conv_out(hidden_states[-1].to(self.conv_out.weight.dtype))
        return correction, tuple(hidden_states)


class DPMambaIRModel(DPMambaIRPreTrainedModel):
    """Restore a picture spoiled by an unknown degradation: the U-shaped network corrects it under its embedding."""

    config_class = DPMambaIRConfig
    _no_split_modules = ("DPMambaIRBlock", "DegradationExtractorModel")
    # A_log and D shape an exponential over thousands of steps; half precision would bend it.
    _keep_in_fp32_modules_strict = ("A_log", "D")

    def __init__(self, config: DPMambaIRConfig) -> None:
        super().__init__(config)
        self.extractor = DegradationExtractorModel(config.extractor_config)
        self.network = DPMambaIRNetwork(config)
        self.post_init()
        self.extractor.requires_grad_(not config.freeze_extractor)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set every parameter: as the shared initialisation, and of the scan and the prompts as follows.

        | parameter | start |
        |---|---|
        | A_log, D | log(1..N), 1 (Mamba's) |
        | dt_proj | uniform in R^-1/2; its bias such that softplus gives steps in [dt_min, dt_max], log-uniform |
        | last layer of a prompt | 0: all prompts equal 1 |
        | HEB's scalar | 0 |
        | output convolution | 0: the picture itself is the first restoration |
        """
        super()._init_weights(module)
        if isinstance(module, PromptedScan):
            self._init_scan(module)
        elif isinstance(module, ZeroStartLinear | ZeroStartConv2d):
            init.zeros_(module.weight)
        elif isinstance(module, HighFrequencyEnhancement):
            init.zeros_(module.scale)

    def _init_scan(self, scan: PromptedScan) -> None:
        states = torch.arange(1, scan.d_state + 1, dtype=torch.float32, device=scan.A_log.device)
        init.copy_(scan.A_log, torch.log(states).expand_as(scan.A_log))
        init.ones_(scan.D)
        init.uniform_(scan.dt_proj.weight, -(scan.dt_rank**-0.5), scan.dt_rank**-0.5)
        low, high = math.log(self.config.dt_min), math.log(self.config.dt_max)
        steps = torch.exp(low + (high - low) * torch.rand_like(scan.dt_proj.bias, dtype=torch.float32))
        init.copy_(scan.dt_proj.bias, steps + torch.log(-torch.expm1(-steps)))  # softplus inverted

    def load_extractor(self, folder: str) -> None:
        """Take a pre-trained extractor, from its own folder or a restorer's; its branches merge where ours are merged.

        Args:
            folder: a local folder or a Hub repository.

        Raises:
            ValueError: its embedding is of another width than this model's prompts expect.
        """
        loaded = DegradationExtractorModel.from_pretrained(folder)
        ours = self.config.extractor_config
        if loaded.config.embedding_dim != ours.embedding_dim:
            raise ValueError(
                f"`embedding_dim` must be {ours.embedding_dim}, as the prompts expect, "
                f"got {loaded.config.embedding_dim} in {folder}; train one of that width or change extractor_config"
            )
        if ours.is_merged:
            loaded.reparameterize()
        self.extractor = loaded.to(self.device, self.dtype).requires_grad_(not self.config.freeze_extractor)
        self.config.extractor_config = loaded.config

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        degradation_embedding: torch.Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> DPMambaIROutput:
        """Restore pictures.

        Args:
            pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1], any H and W from 1 up.
            labels: clean pictures of the same shape; the loss is computed against them.
            degradation_embedding: used instead of the extractor's, (B, E): a whole picture's for its tiles.
            output_hidden_states: return the features after each stage.

        Returns:
            Restored pictures and embeddings; loss and features on request.
        """
        if degradation_embedding is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_extractor):
                degradation_embedding = self.extractor(pixel_values).degradation_embedding
        height, width = pixel_values.shape[-2:]
        padded = pad_to_multiple(pixel_values, SIZE_MULTIPLE)
        # (B, 3, H, W) -> (B, H, W, 3) and back
        correction, hidden_states = self.network(padded.permute(0, 2, 3, 1), degradation_embedding)
        reconstruction = pixel_values + correction.permute(0, 3, 1, 2)[..., :height, :width]
        loss = None if labels is None else self._loss(reconstruction.float(), labels.float())
        hidden_states = hidden_states if output_hidden_states else None
        return DPMambaIROutput(loss, reconstruction, degradation_embedding, hidden_states)

    def _loss(self, restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Eq. 11: mean absolute error, mean squared error, and mean absolute error of the spectra."""
        spectrum = torch.view_as_real(torch.fft.rfft2(restored - clean))
        weights = self.config.l1_weight, self.config.l2_weight, self.config.fft_weight
        terms = F.l1_loss(restored, clean), F.mse_loss(restored, clean), spectrum.abs().mean()
        return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def pad_to_multiple(pixel_values: torch.Tensor, multiple: int) -> torch.Tensor:
    """Extend pictures (B, 3, H, W) below and to the right by reflection until `multiple` divides both sides.

    Where a picture is too small to reflect, its last row or column is repeated.
    """
    height, width = pixel_values.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == right == 0:
        return pixel_values
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(pixel_values, (0, right, 0, bottom), mode=mode)


__all__ = ["DPMambaIRModel", "DPMambaIROutput", "DegradationExtractorForPreTraining", "DegradationExtractorModel"]
