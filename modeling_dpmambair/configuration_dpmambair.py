"""Configurations of the degradation extractor and of the restorer, and every rule that they must keep."""

import math
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Bounds far above what anybody trains. Configurations come from strangers: whatever is built of one within them ends.
MOST_CHANNELS = 4096
MOST_FEATURES = 16_384
MOST_BLOCKS = 100
MOST_NAMES = 1000
LARGEST_KERNEL = 31
MOST_STATES = 256  # the largest N of Mamba's own kernels
MOST_WEIGHTS = 1_000_000_000
LEAST_WINDOW = 16  # pixels; four stages halve it thrice
MOST_WINDOW = 1024  # pixels; exporting traces pictures of more than two
LONGEST_NAME = 64  # characters of a degradation's name, which reports show
DTYPES = ("bfloat16", "float16", "float32", "float64")
LONGEST_VALUE = 200  # characters of a wrong value that an error shows


def _check(is_kept: bool, name: str, rule: str, value: Any, remedy: str) -> None:
    if not is_kept:
        shown = repr(value)
        shown = shown if len(shown) <= LONGEST_VALUE else f"{shown[:LONGEST_VALUE]}..."
        raise ValueError(f"`{name}` must be {rule}, got {shown}; {remedy}")


def _check_at_least(config: PreTrainedConfig, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(value >= least, name, f"at least {least}", value, "choose a larger one")


def _check_at_most(config: PreTrainedConfig, most: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        largest = max(value) if isinstance(value, list) else value
        _check(largest is None or largest <= most, name, f"at most {most:g}", value, "choose a smaller one")


# What transformers would act on: it fetches kernels, which are code, from the repositories that the first three name.
_ACTED_UPON = {
    **dict.fromkeys(("attn_implementation", "_attn_implementation"), "there is no attention of its kinds here"),
    **dict.fromkeys(("experts_implementation", "_experts_implementation"), "there are no experts here"),
    "quantization_config": "save the weights as floating point",
    **dict.fromkeys(("fusion_config", "per_layer_config"), "nothing of ours reads it"),
    "transformers_weights": "name the weights model.safetensors",
}


def _check_foreign(config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """Refuse what transformers would act on before any rule of ours is checked."""
    remedy = "leave it out: nothing reads it"
    labels = options.get("num_labels") or 0
    few = isinstance(labels, int) and 0 <= labels <= MOST_NAMES
    _check(few, "num_labels", f"at most {MOST_NAMES}", labels, remedy)
    names = config.id2label
    _check(names is None or isinstance(names, dict), "id2label", "a dictionary", names, remedy)
    for name in _ACTED_UPON.keys() & options.keys():
        _check(options[name] in (None, "eager"), name, "left out", options[name], _ACTED_UPON[name])
    dtype = options.get("torch_dtype") if config.dtype is None else config.dtype
    known = dtype is None or str(dtype).removeprefix("torch.") in DTYPES
    _check(known, "dtype", f"one of {', '.join(DTYPES)}", dtype, "float32 is the usual one")
    for name in options:
        is_ours = callable(getattr(type(config), name, None))
        _check(not is_ours, name, "left out, as a method has this name", options[name], remedy)


@strict
class DegradationExtractorConfig(PreTrainedConfig):
    """Configuration of `DegradationExtractorModel` (section III-C of arXiv:2504.17732) and of its pre-training.

    Args:
        channels (`list[int]`, *optional*, defaults to `[32, 64, 96, 192]`):
            Widths of the four stages, at full, half, quarter and eighth resolution.
        kernel_sizes (`list[int]`, *optional*, defaults to `[3, 3, 5, 7]`):
            Odd kernel sizes of the central-difference branches: edges first, then the scales.
        theta (`float`, *optional*, defaults to `0.7`):
            Share of central difference in each of those convolutions, in [0, 1].
        embedding_dim (`int`, *optional*, defaults to `512`):
            Width of the degradation embedding.
        is_merged (`bool`, *optional*, defaults to `False`):
            Whether the branches stand as one convolution (re-parameterised) instead of side by side (DPMambaIR-L).
        reconstruction_dim (`int`, *optional*, defaults to `48`):
            Width of the reconstruction unit, which exists in pre-training only.
        has_noise_channel (`bool`, *optional*, defaults to `True`):
            Whether the reconstruction unit sees a channel of white noise, from which it can place grain and streaks.
        lpips_weight (`float`, *optional*, defaults to `0.1`):
            Weight lambda of LPIPS in the pre-training loss L1 + lambda LPIPS; the paper gives no value.
        has_fine_statistics (`bool`, *optional*, defaults to `False`):
            Whether the embedding is read, beside each stage's means, from the logarithms of the deviations, from
            kurtoses and from the traces of a codec's grid, all on one scale; not in the paper, which reads means and
            deviations as they are.
        window (`int`, *optional*, defaults to `None`):
            Side of the windows, pixels, into which a picture is cut and whose embeddings are averaged; statistics of
            larger pictures are unlike those of the patches that training saw. Not in the paper, which reads pictures
            whole, as is done without it.
        head_dim (`int`, *optional*, defaults to `None`):
            Width of a hidden layer beside the linear map from statistics to embedding, which it completes: whether a
            pale window is hazy depends on several statistics at once. Not in the paper, whose map is linear alone, as
            it is without it.
        description_weight (`float`, *optional*, defaults to `0.0`):
            Weight, in the pre-training loss, of naming the degradations and their severities; 0: without that head.
        degradations (`list[str]`, *optional*):
            Names of the degradations, in the order of class labels and descriptions; defaults to
            `["haze", "rain", "snow", "low_light", "blur", "jpeg", "noise"]`.
        description_dim (`int`, *optional*, defaults to `64`):
            Hidden width of the head that names degradations and their severities.
        freeze_extractor (`bool`, *optional*, defaults to `True`):
            Whether the extractor stays as pre-trained while that head is trained on it.
    """

    model_type = "dpmambair_extractor"
    _auto_class: ClassVar = "AutoConfig"  # saving carries this file

    channels: list[int] | tuple[int, ...] = (32, 64, 96, 192)
    kernel_sizes: list[int] | tuple[int, ...] = (3, 3, 5, 7)
    theta: float = 0.7
    embedding_dim: int = 512
    is_merged: bool = False
    reconstruction_dim: int = 48
    has_noise_channel: bool = True
    lpips_weight: float = 0.1
    has_fine_statistics: bool = False
    window: int | None = None
    head_dim: int | None = None
    description_weight: float = 0.0
    degradations: list[str] | tuple[str, ...] = ("haze", "rain", "snow", "low_light", "blur", "jpeg", "noise")
    description_dim: int = 64
    freeze_extractor: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn sequences into lists, as JSON returns them."""
        _check_foreign(self, kwargs)
        for name in ("channels", "kernel_sizes", "degradations"):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    def validate_extractor(self) -> None:
        """Check every rule of the extractor; a broken one is an error that names field, rule, value and remedy."""
        four = len(self.channels) == 4 and min(self.channels) >= 1
        _check(four, "channels", "four positive widths", self.channels, "give one a stage")
        odd = bool(self.kernel_sizes) and all(size % 2 == 1 and size >= 1 for size in self.kernel_sizes)
        _check(odd, "kernel_sizes", "one or more odd sizes", self.kernel_sizes, "use 3, 5 or 7, so that they centre")
        _check(0.0 <= self.theta <= 1.0, "theta", "in [0, 1]", self.theta, "0.7 is the usual one")
        unique = bool(self.degradations) and len(set(self.degradations)) == len(self.degradations)
        _check(unique, "degradations", "one or more different names", self.degradations, "name each once")
        _check_at_least(self, 1, "embedding_dim", "reconstruction_dim", "description_dim")
        _check_at_least(self, 0.0, "lpips_weight", "description_weight")
        if self.window is not None:
            _check_at_least(self, LEAST_WINDOW, "window")
        if self.head_dim is not None:
            _check_at_least(self, 1, "head_dim")
        for name in self.degradations:
            is_plain = name.isprintable() and len(name) <= LONGEST_NAME
            rule = f"printable names of at most {LONGEST_NAME} characters"
            _check(is_plain, "degradations", rule, name, "choose others")
        self._check_bounds()

    def _check_bounds(self) -> None:
        _check_at_most(self, MOST_CHANNELS, "channels", "reconstruction_dim")
        _check_at_most(self, MOST_FEATURES, "embedding_dim", "description_dim", "head_dim")
        _check_at_most(self, MOST_WINDOW, "window")
        _check_at_most(self, LARGEST_KERNEL, "kernel_sizes")
        few = len(self.kernel_sizes) <= LARGEST_KERNEL
        _check(few, "kernel_sizes", f"at most {LARGEST_KERNEL} sizes", self.kernel_sizes, "the usual ones are four")
        names = len(self.degradations)
        _check(names <= MOST_NAMES, "degradations", f"at most {MOST_NAMES} names", names, "name what is trained alone")
        _check_at_most(self, MOST_FEATURES, "lpips_weight", "description_weight")
        rule, remedy = f"of at most {MOST_WEIGHTS:g} weights", "choose smaller ones"
        weights = self.estimate_weights()
        _check(weights <= MOST_WEIGHTS, "channels, kernel_sizes and the widths", rule, f"{weights:.2g}", remedy)

    def estimate_weights(self) -> float:
        """Estimate how many weights extractor, reconstruction unit and head have, from what grows fastest."""
        inputs, features = [3, *self.channels[:3]], self.embedding_dim
        taps = sum(size**2 for size in self.kernel_sizes)
        stages = sum(width * (taps * before + 9 * width) for before, width in zip(inputs, self.channels, strict=True))
        unit = 8 * self.reconstruction_dim * (72 * self.reconstruction_dim + 4 * features)
        head = features * self.description_dim + 2 * len(self.degradations) * self.description_dim
        hidden = (self.head_dim or 0) * (3 * sum(self.channels) + features)
        return stages + 3 * sum(self.channels) * features + hidden + unit + head


@strict
class DPMambaIRConfig(PreTrainedConfig):
    """Configuration of `DPMambaIRModel`; the defaults are the base model.

    The paper states neither block counts nor widths; these were fitted to its published parameters and GFLOPs.

    Args:
        dim (`int`, *optional*, defaults to `48`):
            Channels at full resolution; they double at each of the three halvings.
        encoder_depths (`list[int]`, *optional*, defaults to `[4, 6, 6]`):
            Blocks of the encoder stages at full, half and quarter resolution.
        latent_depth (`int`, *optional*, defaults to `8`):
            Blocks at an eighth of the resolution.
        decoder_depths (`list[int]`, *optional*, defaults to `[2, 4, 4]`):
            Blocks of the decoder stages at full, half and quarter resolution.
        refinement_depth (`int`, *optional*, defaults to `2`):
            Blocks after the decoder, at full resolution and twice `dim` channels.
        d_state (`int`, *optional*, defaults to `32`):
            States N of the scan, for each channel.
        d_conv (`int`, *optional*, defaults to `3`):
            Odd size of the depthwise convolution before the scan.
        expand (`int`, *optional*, defaults to `2`):
            Scanned channels for each channel of the block.
        ffn_ratio (`float`, *optional*, defaults to `2.0`):
            Hidden channels of the feed-forward for each channel of the block.
        prompt_dim (`int`, *optional*, defaults to `16`):
            Hidden width of the maps M from the embedding to a block's prompts.
        prompts (`list[str]`, *optional*, defaults to `["delta", "B", "C"]`):
            Which of the three the embedding modulates (Table 3): any subset; none with another `insertion`.
        insertion (`str`, *optional*, defaults to `"modulation"`):
            How the embedding enters a block (Table 4): "modulation" of the scan, "concatenation" to the features, or
            "attention" of the features to it.
        embedding_source (`str`, *optional*, defaults to `"extractor"`):
            Where the embedding comes from (Table 4): the "extractor", a learned one for each "class_label", or "given"
            to every call.
        scan_directions (`int`, *optional*, defaults to `1`):
            1: row-major; 2: and back (Table 5, where the two-direction model has no C prompt).
        discretization (`str`, *optional*, defaults to `"euler"`):
            B_bar in the scan: "euler", Delta B, as every Mamba kernel computes it; "zoh", Eq. 4 as printed.
        has_heb (`bool`, *optional*, defaults to `True`):
            Whether blocks carry the high-frequency enhancement (Eq. 10).
        has_film (`bool`, *optional*, defaults to `False`):
            Whether the embedding also scales and shifts what a block adds to its features, and the features that the
            output convolution reads; a departure from the paper.
        reads_description (`bool`, *optional*, defaults to `False`):
            Whether the network reads, beside the embedding, what the description head makes of it: presence and
            severity of each degradation; needs `has_description`. A departure from the paper.
        stem_dim (`int`, *optional*, defaults to `None`):
            Channels at full resolution; as many as `dim` if not given.
        first_mixer_level (`int`, *optional*, defaults to `0`):
            How often the resolution is halved before blocks carry the DP-SSM: 0, as in the paper, for all blocks;
            those of finer stages are then a feed-forward alone.
        has_linear_resampling (`bool`, *optional*, defaults to `False`):
            Whether halving and doubling the resolution takes a linear map of 2 x 2 pixels in place of a 3x3
            convolution.
        has_summed_skips (`bool`, *optional*, defaults to `False`):
            Whether skips are added in place of concatenated; decoder and refinement at full resolution then have half
            as many channels.
        zero_start (`str`, *optional*, defaults to `"output"`):
            What is zero at the start: the "output" convolution, so that the first restoration is the picture itself;
            or what "branches" of the blocks add to their features. Both at once would hold each other back.
        dt_min (`float`, *optional*, defaults to `0.001`):
            Smallest step size at the start.
        dt_max (`float`, *optional*, defaults to `0.1`):
            Largest step size at the start.
        layer_norm_eps (`float`, *optional*, defaults to `1e-06`):
            Added to the variance in the norms.
        has_description (`bool`, *optional*, defaults to `False`):
            Whether the model carries the head behind `describe`; `load_description` sets it.
        freeze_extractor (`bool`, *optional*, defaults to `True`):
            Whether the extractor stays as pre-trained; fine-tuning it costs the paper 0.26 dB.
        description_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the description head's loss beside the restorer's, for an extractor that is fine-tuned: so the
            embedding still tells the degradations apart, and the head keeps up with it. Needs `has_description`; 0
            leaves the head as it is. Not in the paper.
        l1_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the mean absolute error (Eq. 11).
        l2_weight (`float`, *optional*, defaults to `0.5`):
            Weight of the mean squared error (Eq. 11).
        fft_weight (`float`, *optional*, defaults to `0.001`):
            Weight of the mean absolute error between spectra (Eq. 11).
        log_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the mean over pictures of the logarithm of their mean squared error; not in the paper. Eq. 11
            lets dark and hazy pictures rule, whose errors are large; in the logarithm all count alike.
        tone_weight (`float`, *optional*, defaults to `None`):
            Weight of the mean absolute error of tone, which is the error's mean over each square of 32 pixels; the
            other weights then judge what remains, the detail. None: they judge the whole error, as the paper does.
        extractor_config (`dict` or `DegradationExtractorConfig`, *optional*, defaults to `None`):
            Configuration of the extractor; its own defaults if not given.
    """

    model_type = "dpmambair"
    _auto_class: ClassVar = "AutoConfig"  # saving carries this file
    sub_configs: ClassVar = {"extractor_config": DegradationExtractorConfig}

    dim: int = 48
    encoder_depths: list[int] | tuple[int, ...] = (4, 6, 6)
    latent_depth: int = 8
    decoder_depths: list[int] | tuple[int, ...] = (2, 4, 4)
    refinement_depth: int = 2
    d_state: int = 32
    d_conv: int = 3
    expand: int = 2
    ffn_ratio: float = 2.0
    prompt_dim: int = 16
    prompts: list[Literal["delta", "B", "C"]] | tuple[Literal["delta", "B", "C"], ...] = ("delta", "B", "C")
    insertion: Literal["modulation", "concatenation", "attention"] = "modulation"
    embedding_source: Literal["extractor", "class_label", "given"] = "extractor"
    scan_directions: Literal[1, 2] = 1
    discretization: Literal["euler", "zoh"] = "euler"
    has_heb: bool = True
    has_film: bool = False
    reads_description: bool = False
    stem_dim: int | None = None
    first_mixer_level: int = 0
    has_linear_resampling: bool = False
    has_summed_skips: bool = False
    zero_start: Literal["output", "branches"] = "output"
    dt_min: float = 0.001
    dt_max: float = 0.1
    layer_norm_eps: float = 1e-6
    has_description: bool = False
    freeze_extractor: bool = True
    description_weight: float = 0.0
    l1_weight: float = 1.0
    l2_weight: float = 0.5
    fft_weight: float = 0.001
    log_weight: float = 0.0
    tone_weight: float | None = None
    extractor_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn sequences into lists, as JSON returns them, and the extractor's dictionary into its configuration."""
        _check_foreign(self, kwargs)
        for name in ("encoder_depths", "decoder_depths", "prompts"):
            setattr(self, name, list(getattr(self, name)))
        if not isinstance(self.extractor_config, PreTrainedConfig):
            self.extractor_config = DegradationExtractorConfig(**(self.extractor_config or {}))
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Check that every size is one that the network can be built with."""
        for name in ("encoder_depths", "decoder_depths"):
            depths = getattr(self, name)
            three = len(depths) == 3 and min(depths) >= 1
            _check(three, name, "three positive block counts", depths, "give one a resolution, finest first")
        even = self.dim >= 2 and self.dim % 2 == 0
        _check(even, "dim", "even and at least 2", self.dim, "downsampling halves it before it unshuffles")
        stem = self.stem_dim is None or self.stem_dim >= 1
        _check(stem, "stem_dim", "at least 1 or None", self.stem_dim, "None takes dim")
        _check_at_least(self, 1, "latent_depth", "d_state", "expand", "prompt_dim")
        _check_at_least(self, 0, "refinement_depth", "layer_norm_eps")
        _check(
            0 <= self.first_mixer_level <= 3,
            "first_mixer_level",
            "in 0 to 3",
            self.first_mixer_level,
            "the resolution is halved three times",
        )
        _check(
            self.d_conv % 2 == 1 and self.d_conv >= 1,
            "d_conv",
            "odd and positive",
            self.d_conv,
            "use 3, so that it centres",
        )
        _check(self.ffn_ratio * self.dim >= 1, "ffn_ratio", "positive", self.ffn_ratio, "2 is the usual one")
        self._check_bounds()

    def _check_bounds(self) -> None:
        _check_at_most(self, MOST_BLOCKS, "encoder_depths", "latent_depth", "decoder_depths", "refinement_depth")
        _check_at_most(self, MOST_CHANNELS, "dim", "stem_dim", "prompt_dim")
        _check_at_most(self, MOST_STATES, "d_state")
        _check_at_most(self, LARGEST_KERNEL, "d_conv", "expand", "ffn_ratio")
        _check_at_most(self, 1, "layer_norm_eps")
        rule, remedy = f"of at most {MOST_WEIGHTS:g} weights", "choose smaller ones"
        weights = self.estimate_weights()
        _check(weights <= MOST_WEIGHTS, "dim, expand, ffn_ratio and the depths", rule, f"{weights:.2g}", remedy)

    def estimate_weights(self) -> float:
        """Estimate how many weights the network has, from what grows fastest."""
        stem, *_, deepest = self.dims
        widths = [*self.dims, self.dims[2], self.dims[1], 2 * stem, 2 * stem]
        depths = [*self.encoder_depths, self.latent_depth, *reversed(self.decoder_depths), self.refinement_depth]
        blocks = sum(depth * self._estimate_block(width) for depth, width in zip(depths, widths, strict=True))
        return blocks + 36 * deepest**2

    def _estimate_block(self, width: int) -> float:
        channels, condition = self.expand * width, self.condition_dim
        scan = channels * (2 * self.dt_rank(width) + 3 * self.d_state + self.d_conv**2 + self.prompt_dim)
        maps = condition * (16 * self.prompt_dim + 4 * width) + 2 * width * (width + self.prompt_dim)
        return 3 * width * (channels + width * self.ffn_ratio) + self.scan_directions * scan + maps

    def validate_scan(self) -> None:
        """Check the step sizes and the prompts."""
        ordered = 0 < self.dt_min <= self.dt_max
        _check(ordered, "dt_min", "positive and at most dt_max", self.dt_min, "use 0.001 with dt_max 0.1")
        _check_at_most(self, 100, "dt_max")
        unique = len(set(self.prompts)) == len(self.prompts)
        _check(unique, "prompts", "without repetition", self.prompts, "name each of delta, B, C at most once")
        describes = self.embedding_source == "extractor" or not self.has_description
        _check(describes, "has_description", "false without an extractor", True, "set embedding_source to 'extractor'")
        read = self.has_description or not self.reads_description
        _check(read, "reads_description", "false without has_description", True, "set has_description to true")
        _check_at_least(self, 0.0, "description_weight")
        _check_at_most(self, MOST_FEATURES, "description_weight")
        has_head = self.has_description or self.description_weight == 0
        _check(has_head, "description_weight", "0 without has_description", self.description_weight, "set it to 0")
        sole = self.insertion == "modulation" or not self.prompts
        _check(sole, "prompts", f"empty with insertion {self.insertion!r}", self.prompts, "set prompts to []")

    def validate_loss(self) -> None:
        """Check that no weight of the loss is negative and that one counts."""
        weights = (self.l1_weight, self.l2_weight, self.fft_weight, self.log_weight)
        counts, names = min(weights) >= 0 and max(weights) > 0, "l1_weight, l2_weight, fft_weight, log_weight"
        _check(counts, names, "non-negative, one positive", weights, "Eq. 11: 1, 0.5, 0.001, 0")
        apart = self.tone_weight is None or self.tone_weight > 0
        _check(apart, "tone_weight", "positive or null", self.tone_weight, "set it to null to judge the whole error")
        _check_at_most(self, MOST_FEATURES, "l1_weight", "l2_weight", "fft_weight", "log_weight", "tone_weight")

    @property
    def condition_dim(self) -> int:
        """Width of what the network reads of a picture's degradation."""
        extractor = self.extractor_config
        return extractor.embedding_dim + 2 * len(extractor.degradations) * self.reads_description

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Channels at full, half, quarter and eighth resolution."""
        return self.stem_dim or self.dim, self.dim << 1, self.dim << 2, self.dim << 3

    def dt_rank(self, channels: int) -> int:
        """Return the rank R = ceil(C / 16) of the step size's projection in a block of `channels` channels."""
        return math.ceil(channels / 16)


__all__ = ["DPMambaIRConfig", "DegradationExtractorConfig"]
