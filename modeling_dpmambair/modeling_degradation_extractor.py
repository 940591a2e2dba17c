"""The degradation extractor, from a spoiled picture to an embedding, and its pre-training by reconstruction."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_dpmambair import DegradationExtractorConfig
from .extractor_statistics_dpmambair import (
    GRID,
    VARIANCE_EPS,
    Moments,
    Profiles,
    RunningNorm,
    measure_moments,
    measure_profiles,
    refine,
    split_windows,
)
from .layers_dpmambair import (
    CentralDifferenceBranches,
    ChannelsLastConv2d,
    Downsample,
    Upsample,
    ZeroStartConv2d,
    ZeroStartLinear,
)
from .weights_dpmambair import check_weights


@dataclass
class DegradationExtractorOutput(ModelOutput):
    """What the extractor and its pre-training return.

    Attributes:
        loss: L1 + lambda LPIPS of the rebuilt degraded picture, plus the weighted loss of a head that pre-trains
            along, a scalar; only with `labels`.
        reconstruction: the degraded picture rebuilt from the clean one and the embedding, (B, 3, H, W), not clamped;
            only with `labels`.
        degradation_embedding: what spoiled the picture, (B, E).
        presence: probability that each degradation is there, (B, K), in [0, 1]; only of a head that pre-trains along.
        severity: how strong each is if it is there, (B, K), in [0, 1]; likewise.
        hidden_states: features after each stage, (B, H', W', C') each; only on request.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    degradation_embedding: torch.Tensor | None = None
    presence: torch.Tensor | None = None
    severity: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class ExtractorStage(nn.Module):
    """One stage: merged difference convolutions, GELU, and a residual 1x1 or 3x3 convolution with GELU."""

    def __init__(self, config: DegradationExtractorConfig, stage: int) -> None:
        super().__init__()
        channels = 3 if stage == 0 else config.channels[stage - 1]
        width, is_last = config.channels[stage], stage == len(config.channels) - 1
        stride = 1 if stage == 0 else 2
        self.branches = CentralDifferenceBranches(
            channels, width, config.kernel_sizes, stride, config.theta, is_merged=config.is_merged
        )
        self.mix = ChannelsLastConv2d(width, width, 3 if is_last else 1, padding_mode="replicate")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to (B, ceil(H / stride), ceil(W / stride), C')."""
        x = F.gelu(self.branches(x))
        return x + F.gelu(self.mix(x))


class DPMambaIRPreTrainedModel(PreTrainedModel):
    """What extractor, pre-training and restorer share: initialisation and the place of the extractor."""

    config_class = DegradationExtractorConfig
    base_model_prefix = "extractor"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # As `register_for_auto_class` sets it, but in force for the Hub's copy of this file too: saving carries the code.
    _auto_class = "AutoModel"

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **options: Any
    ) -> Any:
        """Load as transformers documents it, from safetensors alone.

        transformers makes every parameter trainable; what this model never trains is frozen again.

        Raises:
            ValueError: weights in another format, or an index that leads out of the model's folder.
        """
        check_weights(pretrained_model_name_or_path, options)
        options["use_safetensors"] = True
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_parts()
        return loaded

    def get_input_embeddings(self) -> None:
        """Return nothing: there are no tokens to embed (Accelerate asks before it shards)."""

    def freeze_parts(self) -> None:
        """Exclude from training what this model never trains: nothing here."""

    def _returns_hidden_states(self, is_asked: bool | None) -> bool:
        """Whether a call returns features: as its argument says, or the configuration where that is None."""
        return bool(self.config.output_hidden_states if is_asked is None else is_asked)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set every parameter; models are built without storage and filled here.

        | parameter | start |
        |---|---|
        | linear and convolution weights | torch's own: uniform in 1 / sqrt(fan-in) |
        | their biases | 0 |
        | norms | 1, 0 |
        | class embeddings | standard normal |
        | what starts at zero (the last layer of a prompt, ...) | 0 |
        | running norms | nothing seen: 0, 1 |
        """
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
            if isinstance(module, ZeroStartLinear | ZeroStartConv2d):
                init.zeros_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, RunningNorm):
            init.zeros_(module.count)
            init.zeros_(module.mean)
            init.ones_(module.variance)


class DegradationExtractorModel(DPMambaIRPreTrainedModel):
    """Describe what spoiled a picture by one vector (section III-C): statistics of four stages, then a linear map.

    Paper: reads means and deviations; here, with `has_fine_statistics`, what `refine` makes of them and of the
    picture's `Profiles`, because the traces of JPEG, rain and blur are small beside what pictures differ in anyway.
    """

    # It loads from the folders of models that hold it.
    _keys_to_ignore_on_load_unexpected = (r"^network\.", r"^reconstruction_unit\.", r"^description_head\.")

    def __init__(self, config: DegradationExtractorConfig) -> None:
        super().__init__(config)
        self.stages = nn.ModuleList(ExtractorStage(config, stage) for stage in range(len(config.channels)))
        width = 2 * sum(config.channels)
        if config.has_fine_statistics:
            width += sum(config.channels) + 2 * 3 * GRID
            self.norm = RunningNorm(width)
        self.head = nn.Linear(width, config.embedding_dim)
        if config.head_dim is not None:
            self.head_hidden = nn.Linear(width, config.head_dim)
            self.head_out = ZeroStartLinear(config.head_dim, config.embedding_dim, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None
    ) -> DegradationExtractorOutput:
        """Embed the degradation.

        Args:
            pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1], any H and W from 1 up.
            output_hidden_states: return the features after each stage; as the configuration says if not given.

        Returns:
            The embedding, (B, E), and features on request; a tuple of these with `return_dict=False`.
        """
        # Paper: statistics of the whole picture; here, with `window`, of windows as large as the patches trained on.
        batch = pixel_values.shape[0]
        if self.config.window is not None:
            pixel_values = split_windows(pixel_values, self.config.window)
        # (B, 3, H, W) -> (B, H, W, 3), in the dtype of the weights
        x = pixel_values.permute(0, 2, 3, 1).to(self.head.weight.dtype)
        moments, hidden_states = [], () if self._returns_hidden_states(output_hidden_states) else None
        for stage in self.stages:
            x = stage(x)
            if hidden_states is not None:
                hidden_states += (x,)
            moments.append(measure_moments(x.float(), has_fourth=self.config.has_fine_statistics))
        profiles = measure_profiles(pixel_values) if self.config.has_fine_statistics else None
        embedding = self.embed(moments, profiles).unflatten(0, (batch, -1)).mean(1)
        return DegradationExtractorOutput(degradation_embedding=embedding, hidden_states=hidden_states)

    def embed(self, moments: Sequence[Moments], profiles: Profiles | None) -> torch.Tensor:
        """Map what was measured of whole pictures or windows to their embeddings.

        Args:
            moments: of the features after each stage.
            profiles: of the pictures, with `has_fine_statistics`.

        Returns:
            The embeddings, (B, E).
        """
        # What tells degradations apart is small beside what pictures share: bfloat16 would round it away.
        with torch.autocast(self.device.type, enabled=False):
            if profiles is None:
                read = [each for one in moments for each in (one.mean, torch.sqrt(one.variance + VARIANCE_EPS))]
                statistics = torch.cat(read, -1)
            else:
                statistics = self.norm(refine(moments, profiles))
            statistics = statistics.to(self.head.weight.dtype)
            embedding = self.head(statistics)
            # Paper: linear; here, with `head_dim`, a hidden layer as well, because linear maps take pale for hazy.
            if self.config.head_dim is not None:
                embedding = embedding + self.head_out(F.gelu(self.head_hidden(statistics)))
            return embedding

    def reparameterize(self) -> None:
        """Merge each stage's branches into one convolution, in place; the outputs stay the same to rounding."""
        for stage in self.stages:
            stage.branches.merge()
        self.config.is_merged = True


@dataclass
class DegradationDescription(ModelOutput):
    """What spoiled a picture, in the order of `config.degradations`.

    Attributes:
        loss: only with `labels`, a scalar.
        presence: probability that each degradation is there, (B, K), in [0, 1].
        severity: how strong each is if it is there, (B, K), in [0, 1].
        hidden_states: the extractor's features after each stage, (B, H', W', C') each; only on request.
    """

    loss: torch.Tensor | None = None
    presence: torch.Tensor | None = None
    severity: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None

    def by_name(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Give what spoiled the first picture: of each degradation its `presence` and `severity`, in [0, 1].

        Args:
            names: `config.degradations`.
        """
        found = zip(self.presence[0].tolist(), self.severity[0].tolist(), strict=True)
        rows = ({"presence": presence, "severity": severity} for presence, severity in found)
        return dict(zip(names, rows, strict=True))


def describe_loss(presence: torch.Tensor, severity: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the presence plus mean absolute error of the severities that are there and known, a scalar.

    Args:
        presence: logits, (B, K), float32.
        severity: logits, (B, K), float32.
        labels: true severities, (B, K), in [0, 1]: 0 where a degradation is absent, NaN where it is there but nobody
            knows how strongly; a row of NaN alone tells nothing and counts for nothing.
    """
    has_strength, is_told = labels > 0, ~labels.isnan().all(-1, keepdim=True)
    present = (has_strength | labels.isnan()).float()
    cross_entropy = F.binary_cross_entropy_with_logits(presence, present, is_told.float().expand_as(present))
    error = (severity.sigmoid() - labels.nan_to_num()).abs() * has_strength
    return cross_entropy + error.sum() / has_strength.sum().clamp(min=1)


class DegradationHead(nn.Module):
    """Name the degradations behind an embedding and their severities: norm, linear, GELU, linear."""

    def __init__(self, config: DegradationExtractorConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.embedding_dim)
        self.hidden = nn.Linear(config.embedding_dim, config.description_dim)
        self.out_proj = nn.Linear(config.description_dim, 2 * len(config.degradations))

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map embeddings (B, E) to the logits of presence and severity, (B, K) each, float32."""
        presence, severity = self.out_proj(F.gelu(self.hidden(self.norm(embedding)))).float().chunk(2, dim=-1)
        return presence, severity

    def read(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return embeddings normalised, and beside them presence and presence times severity, (B, E) to (B, E + 2 K).

        A few numbers that tell the degradations apart are learnt from at once, where an embedding of many needs long.
        """
        presence, severity = (logits.sigmoid() for logits in self(embedding))
        described = torch.cat([presence, presence * severity], -1)
        return torch.cat([self.norm(embedding), described.to(embedding.dtype)], -1)

    def loss(self, embedding: torch.Tensor, severity: torch.Tensor | None) -> torch.Tensor:
        """Return `describe_loss` of what is said of embeddings (B, E), a scalar.

        Raises:
            ValueError: the true severities are missing.
        """
        if severity is None:
            raise ValueError(
                "`severity` must be given while `description_weight` is positive, got None; "
                "pass the true severities or set description_weight to 0"
            )
        return describe_loss(*self(embedding), severity)


class DegradationExtractorForDescription(DPMambaIRPreTrainedModel):
    """An extractor with a head that says what it saw.

    Paper: the extractor learns from reconstruction alone; here, with `freeze_extractor` off, it then learns to
    describe too, because a restorer whose embedding tells the degradations apart learns several times as fast.
    """

    # A head that pre-trained along with the extractor loads from there.
    _keys_to_ignore_on_load_unexpected = (r"^reconstruction_unit\.",)

    def __init__(self, config: DegradationExtractorConfig) -> None:
        super().__init__(config)
        self.extractor = DegradationExtractorModel(config)
        self.description_head = DegradationHead(config)
        self.post_init()
        self.freeze_parts()

    def freeze_parts(self) -> None:
        """Exclude the extractor from training where the configuration says so."""
        self.extractor.requires_grad_(not self.config.freeze_extractor)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> DegradationDescription:
        """Describe degraded pictures.

        Args:
            pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1].
            labels: true severities, (B, K), in [0, 1], as `describe_loss` takes them.
            output_hidden_states: return the extractor's features; as the configuration says if not given.

        Returns:
            Presence and severity of each degradation; with `labels` also the loss, features on request; a tuple of
            these with `return_dict=False`.
        """
        returns_features = self._returns_hidden_states(output_hidden_states)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_extractor):
            extracted = self.extractor(pixel_values, output_hidden_states=returns_features, return_dict=True)
        presence, severity = self.description_head(extracted.degradation_embedding)
        loss = None if labels is None else describe_loss(presence, severity, labels)
        return DegradationDescription(loss, presence.sigmoid(), severity.sigmoid(), extracted.hidden_states)


class ModulatedResidual(nn.Module):
    """Residual block whose features the embedding scales and shifts between two 3x3 convolutions (FiLM)."""

    def __init__(self, dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.conv1 = ChannelsLastConv2d(dim, dim, 3)
        self.film = nn.Linear(embedding_dim, 2 * dim)
        self.conv2 = ChannelsLastConv2d(dim, dim, 3)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map features (B, H, W, C) under the embedding (B, E)."""
        scale, shift = self.film(embedding)[:, None, None].chunk(2, dim=-1)
        return x + self.conv2(F.gelu(torch.addcmul(shift, self.conv1(x), 1 + scale)))


class ReconstructionUnit(nn.Module):
    """Rebuild the degraded picture from clean content and the embedding, on two levels; used in pre-training only.

    Paper: rebuilds from content and embedding alone; here: plus an optional channel of white noise, because grain and
    streaks are random, and without it the best rebuilt noise is none.
    """

    def __init__(self, config: DegradationExtractorConfig) -> None:
        super().__init__()
        dim, embedding_dim = config.reconstruction_dim, config.embedding_dim
        self.has_noise_channel = config.has_noise_channel
        self.conv_in = ChannelsLastConv2d(3 + self.has_noise_channel, dim, 3)
        self.encoder = nn.ModuleList(ModulatedResidual(dim, embedding_dim) for _ in range(2))
        self.down = Downsample(dim, 2 * dim)
        self.latent = nn.ModuleList(ModulatedResidual(2 * dim, embedding_dim) for _ in range(4))
        self.up = Upsample(2 * dim, dim)
        self.decoder = nn.ModuleList(ModulatedResidual(dim, embedding_dim) for _ in range(2))
        self.conv_out = ChannelsLastConv2d(dim, 3, 3)

    def forward(self, content: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Rebuild the degraded picture.

        Args:
            content: clean pictures, (B, 3, H, W), RGB in [0, 1].
            embedding: degradation embeddings, (B, E).

        Returns:
            Rebuilt degraded pictures, (B, 3, H, W), not clamped.
        """
        height, width = content.shape[-2:]
        x = content.permute(0, 2, 3, 1).to(self.conv_in.weight.dtype)
        if self.has_noise_channel:
            x = torch.cat([x, torch.randn_like(x[..., :1])], -1)
        # An odd side gets one more row or column, which the return drops.
        x = self.conv_in(F.pad(x, (0, 0, 0, width % 2, 0, height % 2)))
        for block in self.encoder:
            x = block(x, embedding)
        deep = self.down(x)
        for block in self.latent:
            deep = block(deep, embedding)
        x = x + self.up(deep)
        for block in self.decoder:
            x = block(x, embedding)
        return content + self.conv_out(x)[:, :height, :width].permute(0, 3, 1, 2)


class DegradationExtractorForPreTraining(DPMambaIRPreTrainedModel):
    """The extractor under pre-training: its embedding must let a small network spoil the clean picture the same way.

    The branches stay side by side here whatever `config.is_merged` says; they merge when a restorer takes them.

    Paper: reconstruction alone; here: plus, with a positive `config.description_weight`, a head that names the
    degradations and their severities, because rain and snow rebuild almost alike and reconstruction confuses them.
    """

    # Without its own head it still loads what was saved with one.
    _keys_to_ignore_on_load_unexpected = (r"^description_head\.",)

    def __init__(self, config: DegradationExtractorConfig) -> None:
        config = copy.deepcopy(config)
        config.is_merged = False
        super().__init__(config)
        self.extractor = DegradationExtractorModel(config)
        self.reconstruction_unit = ReconstructionUnit(config)
        self.description_head = DegradationHead(config) if config.description_weight > 0 else None
        # In a tuple, so that the fixed network behind it is no part of this model's weights.
        self._perceptual_loss: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = ()
        self.post_init()

    def attach_perceptual_loss(self, perceptual_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        """Set the LPIPS of the loss.

        Args:
            perceptual_loss: maps two batches (B, 3, H, W) in [0, 1] to their mean distance, a scalar; not saved.
        """
        self._perceptual_loss = (perceptual_loss,)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        severity: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> DegradationExtractorOutput:
        """Embed the degradation and, given the clean pictures, rebuild the degraded ones.

        Args:
            pixel_values: degraded pictures, (B, 3, H, W), RGB in [0, 1].
            labels: clean pictures of the same shape.
            severity: true severities, (B, K), in [0, 1], as `describe_loss` takes them; needed with `labels` while
                `config.description_weight` is positive, not read otherwise.
            output_hidden_states: return the extractor's features; as the configuration says if not given.

        Returns:
            Embedding, and what the head says of it if there is one; with `labels` also the rebuilt pictures and the
            loss, features on request; a tuple of these with `return_dict=False`.

        Raises:
            ValueError: `labels` are given, but a part of the loss whose weight is positive lacks what it needs.
        """
        returns_features = self._returns_hidden_states(output_hidden_states)
        extracted = self.extractor(pixel_values, output_hidden_states=returns_features, return_dict=True)
        embedding, hidden_states = extracted.degradation_embedding, extracted.hidden_states
        loss, rebuilt, description = None, None, ()
        if labels is not None:
            rebuilt = self.reconstruction_unit(labels, embedding)
            loss = self._loss(rebuilt.float(), pixel_values.float())
        if self.description_head is not None:
            description = self.description_head(embedding)
            if labels is not None:
                loss = loss + self.config.description_weight * self.description_head.loss(embedding, severity)
        described = (each.sigmoid() for each in description)
        return DegradationExtractorOutput(loss, rebuilt, embedding, *described, hidden_states=hidden_states)

    def _loss(self, rebuilt: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        loss = F.l1_loss(rebuilt, degraded)
        if self.config.lpips_weight == 0:
            return loss
        if not self._perceptual_loss:
            raise ValueError(
                "`perceptual_loss` must be attached while `lpips_weight` is positive, got none; "
                "call attach_perceptual_loss or set lpips_weight to 0"
            )
        return loss + self.config.lpips_weight * self._perceptual_loss[0](rebuilt, degraded)


__all__ = [
    "DPMambaIRPreTrainedModel",
    "DegradationDescription",
    "DegradationExtractorForDescription",
    "DegradationExtractorForPreTraining",
    "DegradationExtractorModel",
    "DegradationExtractorOutput",
    "DegradationHead",
]
