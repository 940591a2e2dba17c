"""DPMambaIR: prompt scan, block, U-shaped network and the restorer around it (arXiv:2504.17732v1)."""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .block_dpmambair import DPMambaIRBlock, FeatureModulation, PromptedScan
from .configuration_dpmambair import DPMambaIRConfig
from .layers_dpmambair import (
    ChannelsLastConv2d,
    Downsample,
    HighFrequencyEnhancement,
    LinearDownsample,
    LinearUpsample,
    Upsample,
    ZeroStartConv2d,
    crop,
    pad_to_multiple,
)
from .modeling_degradation_extractor import (
    DegradationDescription,
    DegradationExtractorForDescription,
    DegradationExtractorModel,
    DegradationHead,
    DPMambaIRPreTrainedModel,
)

HALVINGS = 3
# Heights and widths are padded to a multiple of this.
SIZE_MULTIPLE = 2**HALVINGS
# Added to a picture's mean squared error before its logarithm: beyond 40 dB little more is to be gained.
LOG_EPS = 1e-4
# Side of the squares whose mean error is tone; what is finer is detail.
TONE_SIDE = 32


@dataclass
class DPMambaIROutput(ModelOutput):
    """What the restorer returns.

    Attributes:
        loss: Eq. 11 and what the configuration adds to it, a scalar; only with `labels`.
        reconstruction: restored pictures, (B, 3, H, W), RGB, not clamped.
        degradation_embedding: what spoiled the pictures, (B, E).
        hidden_states: features after each stage, (B, H', W', C') each; only on request.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    degradation_embedding: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class DPMambaIRStage(nn.Module):
    """Blocks of one width, one after the other.

    Args:
        config: the model's.
        level: how often the resolution was halved before.
        dim: channels C.
        depth: blocks.
    """

    def __init__(self, config: DPMambaIRConfig, level: int, dim: int, depth: int) -> None:
        super().__init__()
        has_mixer = level >= config.first_mixer_level
        self.blocks = nn.ModuleList(DPMambaIRBlock(config, dim, has_mixer) for _ in range(depth))

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        for block in self.blocks:
            x = block(x, embedding)
        return x


class DPMambaIRNetwork(nn.Module):
    """The U: three encoder stages, a latent one, three decoder stages with skips, a refinement (Fig. 2)."""

    def __init__(self, config: DPMambaIRConfig) -> None:
        super().__init__()
        dims, depths = config.dims, config.decoder_depths
        self.conv_in = ChannelsLastConv2d(3, dims[0], 3, bias=False)
        self.encoder = nn.ModuleList(
            DPMambaIRStage(config, level, dims[level], depth) for level, depth in enumerate(config.encoder_depths)
        )
        is_linear = config.has_linear_resampling
        downsample, upsample = (LinearDownsample, LinearUpsample) if is_linear else (Downsample, Upsample)
        self.down = nn.ModuleList(downsample(dims[level], dims[level + 1]) for level in range(HALVINGS))
        self.latent = DPMambaIRStage(config, 3, dims[3], config.latent_depth)
        self.up = nn.ModuleList(upsample(dims[level + 1], dims[level]) for level in (2, 1, 0))
        # At full resolution a joined skip is not reduced: decoder and refinement keep both halves.
        self.has_summed_skips = config.has_summed_skips
        self.reduce, out_dim = nn.ModuleList(), dims[0]
        if not self.has_summed_skips:
            self.reduce.extend(nn.Linear(2 * dims[level], dims[level], bias=False) for level in (2, 1))
            out_dim = 2 * dims[0]
        widths = dims[2], dims[1], out_dim
        self.decoder = nn.ModuleList(
            DPMambaIRStage(config, level, width, depths[level]) for level, width in zip((2, 1, 0), widths, strict=True)
        )
        self.refinement = DPMambaIRStage(config, 0, out_dim, config.refinement_depth)
        self.out_modulation = FeatureModulation(config, out_dim) if config.has_film else None
        last = ZeroStartConv2d if config.zero_start == "output" else ChannelsLastConv2d
        self.conv_out = last(out_dim, 3, 3, bias=False)

    def forward(
        self, x: torch.Tensor, embedding: torch.Tensor, hidden_states: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Compute the correction of a picture.

        Args:
            x: pictures, (B, H, W, 3), H and W multiples of 8.
            embedding: what is known of the degradations, (B, E'), or (1, E') for all pictures.
            hidden_states: what the features after each stage are appended to; without it they are freed on the way.

        Returns:
            What to add to the pictures, (B, H, W, 3).
        """
        embedding = embedding.to(self.conv_in.weight.dtype).expand(len(x), -1)
        levels = range(HALVINGS)
        features = self.encode(x, embedding, levels, hidden_states)
        features.append(self.latent(features.pop(), embedding))
        keep(features[-1], hidden_states)
        return self.decode(features, embedding, levels, hidden_states)

    def encode(
        self, x: torch.Tensor, embedding: torch.Tensor, levels: range, hidden_states: list[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """Go down through levels.

        Args:
            x: features before the first of them, (B, H, W, C); of level 0 the pictures, (B, H, W, 3).
            embedding: (B, E').
            levels: of the encoder.
            hidden_states: as in `forward`.

        Returns:
            The features that each level leaves for its decoder; and last those before the level below them.
        """
        if levels.start == 0:
            x = self.conv_in(x.to(self.conv_in.weight.dtype))
        features = []
        for level in levels:
            x = self.encoder[level](x, embedding)
            keep(x, hidden_states)
            features.append(x)
            x = self.down[level](x)
        return [*features, x]

    def decode(
        self,
        features: list[torch.Tensor],
        embedding: torch.Tensor,
        levels: range,
        hidden_states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Come back up through levels.

        Args:
            features: what `encode` returned for them, the last as the levels below left it; each is taken out of the
                list, so that it is freed on the way.
            embedding: (B, E').
            levels: of the decoder, named as the encoder's.
            hidden_states: as in `forward`.

        Returns:
            Features after the first of them, (B, H, W, C); of level 0 the correction, (B, H, W, 3).
        """
        x = features.pop()
        for level in reversed(levels):
            step = HALVINGS - 1 - level
            x = self.join(self.up[step], x, features.pop())
            x = self.decoder[step](self.reduce[step](x) if step < len(self.reduce) else x, embedding)
            keep(x, hidden_states)
        if levels.start > 0:
            return x
        x = self.refinement(x, embedding)
        keep(x, hidden_states)
        if self.out_modulation is not None:
            x = self.out_modulation(x, embedding)
        # The correction is often a few grey levels; eight bits of mantissa would round it away.
        with torch.autocast(x.device.type, enabled=False):
            return self.conv_out(x.to(self.conv_out.weight.dtype))

    def join(self, up: nn.Module, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Double the resolution of features (B, H, W, C), and join those of the encoder, (B, 2 H, 2 W, C')."""
        return up(x) + skip if self.has_summed_skips else torch.cat([up(x), skip], -1)


def keep(x: torch.Tensor, hidden_states: list[torch.Tensor] | None) -> None:
    """Append features to those that were asked for, if they were."""
    if hidden_states is not None:
        hidden_states.append(x)


class DPMambaIRModel(DPMambaIRPreTrainedModel):
    """Restore a picture spoiled by an unknown degradation: the U-shaped network corrects it under its embedding."""

    config_class = DPMambaIRConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ("DPMambaIRBlock", "DegradationExtractorModel")
    # A_log and D shape an exponential over thousands of steps; half precision would bend it.
    _keep_in_fp32_modules_strict = ("A_log", "D")

    def __init__(self, config: DPMambaIRConfig) -> None:
        super().__init__(config)
        extractor_config = config.extractor_config
        if config.embedding_source == "extractor":
            self.extractor = DegradationExtractorModel(extractor_config)
        elif config.embedding_source == "class_label":
            self.class_embedding = nn.Embedding(len(extractor_config.degradations), extractor_config.embedding_dim)
        if config.has_description:
            self.description_head = DegradationHead(extractor_config)
        self.network = DPMambaIRNetwork(config)
        self.post_init()
        self.freeze_parts()

    def freeze_parts(self) -> None:
        """Exclude from training the extractor and the head that describes, where the configuration says so."""
        if self.config.embedding_source == "extractor":
            self.extractor.requires_grad_(not self.config.freeze_extractor)
        if self.config.has_description:
            self.description_head.requires_grad_(self.config.description_weight > 0)

    def save_pretrained(self, save_directory: str | os.PathLike, **options: Any) -> None:
        """Save as transformers documents it, the code included, for both Auto classes that load this model."""
        name = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        known = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = {**known, "AutoModel": name, "AutoModelForImageToImage": name}
        super().save_pretrained(save_directory, **options)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set every parameter: as the shared initialisation, and of the scan and the prompts as follows.

        | parameter | start |
        |---|---|
        | A_log, D | log(1..N), 1 (Mamba's) |
        | dt_proj | uniform in R^-1/2; its bias such that softplus gives steps in [dt_min, dt_max], log-uniform |
        | last layer of a prompt | 0 (shared): all prompts equal 1 |
        | HEB's scalar | 0 |
        | output convolution, or each block's last layers (`zero_start`) | 0 (shared) |
        """
        super()._init_weights(module)
        if isinstance(module, PromptedScan):
            self._init_scan(module)
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
            ValueError: this model has no extractor, or its prompts expect an embedding of another width.
        """
        self._require_extractor()
        loaded, ours = DegradationExtractorModel.from_pretrained(folder), self.config.extractor_config
        if loaded.config.embedding_dim != ours.embedding_dim:
            raise ValueError(
                f"`embedding_dim` must be {ours.embedding_dim}, as the prompts expect, "
                f"got {loaded.config.embedding_dim} in {folder}; train one of that width or change extractor_config"
            )
        if ours.is_merged:
            loaded.reparameterize()
        # The head that describes, if there is one, keeps its own width and names.
        loaded.config.description_dim, loaded.config.degradations = ours.description_dim, ours.degradations
        loaded.config.name_or_path = ""  # a folder of this machine says nothing elsewhere
        self.config.extractor_config = loaded.config
        self.extractor = loaded.to(self.device, self.dtype)
        self.freeze_parts()

    def load_description(self, folder: str) -> None:
        """Take the head behind `describe`, trained on this model's extractor.

        Args:
            folder: of a `DegradationExtractorForDescription`, local or on the Hub.

        Raises:
            ValueError: this model has no extractor.
        """
        self._require_extractor()
        loaded, ours = DegradationExtractorForDescription.from_pretrained(folder), self.config.extractor_config
        ours.description_dim, ours.degradations = loaded.config.description_dim, loaded.config.degradations
        self.description_head = loaded.description_head.to(self.device, self.dtype)
        self.config.has_description = True
        self.freeze_parts()

    def _require_extractor(self) -> None:
        if self.config.embedding_source != "extractor":
            source = self.config.embedding_source
            raise ValueError(f"`embedding_source` must be 'extractor' here, got {source!r}; build the model with it")

    @torch.no_grad()
    def describe(
        self, pixel_values: torch.Tensor, degradation_embedding: torch.Tensor | None = None
    ) -> DegradationDescription:
        """Tell what spoiled the pictures, in the order of `config.extractor_config.degradations`.

        Args:
            pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1].
            degradation_embedding: their embeddings, (B, E), where the forward has given them already.

        Raises:
            ValueError: this model carries no head that describes.
        """
        if not self.config.has_description:
            raise ValueError("`has_description` must be true to describe, got False; call load_description first")
        presence, severity = self.description_head(self._embed(pixel_values, degradation_embedding, None))
        return DegradationDescription(presence=presence.sigmoid(), severity=severity.sigmoid())

    def _embed(
        self, pixel_values: torch.Tensor, given: torch.Tensor | None, class_labels: torch.Tensor | None
    ) -> torch.Tensor:
        source = self.config.embedding_source
        if given is not None:
            return given.expand(len(pixel_values), -1)
        if source == "class_label" and class_labels is not None:
            return self.class_embedding(class_labels)
        if source != "extractor":
            missing = "class_labels" if source == "class_label" else "degradation_embedding"
            raise ValueError(
                f"`{missing}` must be given with embedding_source {source!r}, got None; pass one a picture"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_extractor):
            extracted = self.extractor(pixel_values, output_hidden_states=False, return_dict=True)
            return extracted.degradation_embedding

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        degradation_embedding: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        strength: float | torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        *,
        severity: torch.Tensor | None = None,
    ) -> DPMambaIROutput:
        """Restore pictures.

        Args:
            pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1], any H and W from 1 up.
            labels: clean pictures of the same shape; the loss is computed against them.
            degradation_embedding: used instead of the model's own, (B, E), or (1, E): a whole picture's for its tiles.
            class_labels: indices into `config.extractor_config.degradations`, (B,), where they are the source.
            strength: factor on the correction: 0 returns the input, 1 (the default) restores, more exaggerates; a
                number, or a tensor that broadcasts against (B, 3, H, W).
            output_hidden_states: return the features after each stage; as the configuration says if not given.
            severity: true severities, (B, K), in [0, 1], as `describe_loss` takes them; needed with `labels` while
                `config.description_weight` is positive, not read otherwise.

        Returns:
            Restored pictures and embeddings; loss and features on request; a tuple of these with `return_dict=False`.

        Raises:
            ValueError: an argument is missing that the embedding or the loss needs.
        """
        embedding = self._embed(pixel_values, degradation_embedding, class_labels)
        # Paper: the network reads the embedding; here, with `reads_description`, what the head says of it too.
        condition = self.description_head.read(embedding) if self.config.reads_description else embedding
        height, width = pixel_values.shape[-2:]
        padded = pad_to_multiple(pixel_values, SIZE_MULTIPLE)
        # (B, 3, H, W) -> (B, H, W, 3) and back
        hidden_states: list[torch.Tensor] | None = [] if self._returns_hidden_states(output_hidden_states) else None
        correction = self.network(padded.permute(0, 2, 3, 1), condition, hidden_states)
        correction = crop(correction, height, width).permute(0, 3, 1, 2)
        reconstruction = pixel_values + (correction if strength is None else strength * correction)
        loss = None
        if labels is not None:
            loss = self._loss(reconstruction.float(), labels.float())
            if self.config.description_weight > 0:
                loss = loss + self.config.description_weight * self.description_head.loss(embedding, severity)
        return DPMambaIROutput(loss, reconstruction, embedding, tuple(hidden_states) if hidden_states else None)

    def _loss(self, restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Eq. 11: mean absolute error, mean squared error, and mean absolute error of the spectra.

        Paper: these three, of the whole error; here, with `log_weight`, also the logarithm of each picture's error,
        because in the means pictures with small errors hardly count; and with `tone_weight`, the error's tone counts
        apart, because its gradients, of one sign over whole squares, drown those of the detail.
        """
        config, error = self.config, restored - clean
        loss = error.new_zeros(())
        if config.tone_weight is not None:
            tone = average_squares(error)
            loss, error = config.tone_weight * tone.abs().mean(), error - tone
        squared = error.square().mean((1, 2, 3))
        loss = loss + config.l1_weight * error.abs().mean() + config.l2_weight * squared.mean()
        if config.fft_weight > 0:
            spectrum = torch.view_as_real(torch.fft.rfft2(error))
            loss = loss + config.fft_weight * spectrum.abs().mean()
        if config.log_weight > 0:
            loss = loss + config.log_weight * torch.log(squared + LOG_EPS).mean()
        return loss


def average_squares(error: torch.Tensor) -> torch.Tensor:
    """Give each pixel of an error (B, 3, H, W) the mean over its square, `TONE_SIDE` wide, less at the far edges."""
    means = F.avg_pool2d(error, TONE_SIDE, ceil_mode=True)
    return F.interpolate(means, scale_factor=float(TONE_SIDE))[..., : error.shape[-2], : error.shape[-1]]


__all__ = ["DPMambaIRModel", "DPMambaIROutput"]
