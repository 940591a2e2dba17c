"""DPMambaIR for spandrel, the model loader of chaiNNer, ComfyUI and others: `dpmambair.spandrel.register()`.

Afterwards every `spandrel.ModelLoader` opens a restorer's `model.safetensors` like a model of its own. spandrel hands
over tensors only, no configuration. So the sizes and switches are read off their names and shapes. Unless
`DPMambaIRArch` is given a configuration, what these do not show (`discretization`, `layer_norm_eps`, and `theta` where
branches are not merged) has its default value, and the windows of fine statistics are the shipped weights'. What
matters in training alone is not read.
"""

import torch
from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, ModelTiling, StateDict
from spandrel.util import KeyCondition, get_seq_len

from modeling_dpmambair import DegradationExtractorConfig, DPMambaIRConfig, DPMambaIRModel
from modeling_dpmambair.modeling_dpmambair import HALVINGS

# A block that always scans: those of finer resolutions may do without (`first_mixer_level`).
BLOCK = "network.latent.blocks.0"
PROMPTS = ("delta", "B", "C")
# Side of the windows in which the shipped weights read a picture, pixels.
SHIPPED_WINDOW = 192


class DPMambaIRArch(Architecture[DPMambaIRModel]):
    """Detects and loads restorers that bring an extractor: those that need nothing but a picture.

    Args:
        config: of the weights that will be loaded; by default it is read off them.
    """

    def __init__(self, config: DPMambaIRConfig | None = None) -> None:
        needed = ("network.conv_in.weight", "network.conv_out.weight", "extractor.head.weight")
        detect = KeyCondition.has_all(*needed, f"{BLOCK}.mixer.scan.A_log")
        super().__init__(id="DPMambaIR", detect=detect)
        self._config = config

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[DPMambaIRModel]:
        """Build the model of these weights; a weight that does not fit is an error of torch's."""
        config = self._config or read_config(state_dict)
        return ImageModelDescriptor(
            DPMambaIRModel(config).eval().requires_grad_(False),
            state_dict,
            architecture=self,
            purpose="Restoration",
            tags=[f"{config.dim}dim", f"{config.d_state}state"],
            supports_half=False,  # spandrel would cast the scan's decays too, which must stay float32
            supports_bfloat16=False,
            scale=1,
            input_channels=3,
            output_channels=3,
            tiling=ModelTiling.DISCOURAGED,  # every tile would get an embedding of its own
            call_fn=restore,
        )


def restore(model: DPMambaIRModel, image: torch.Tensor) -> torch.Tensor:
    """Restore a picture (1, 3, H, W), RGB in [0, 1]; spandrel clamps the result."""
    return model(image).reconstruction


def register() -> None:
    """Make every `spandrel.ModelLoader` of this process know DPMambaIR; repeating it changes nothing."""
    MAIN_REGISTRY.add(ArchSupport.from_architecture(DPMambaIRArch()), ignore_duplicates=True)


def read_config(state_dict: StateDict) -> DPMambaIRConfig:
    """Read sizes and switches off the weights of a restorer; everything else has its default value.

    Args:
        state_dict: the weights, with their names in `DPMambaIRModel`.
    """
    channels, d_state = state_dict[f"{BLOCK}.mixer.scan.A_log"].shape
    width, stem_dim = len(state_dict[f"{BLOCK}.norm2.weight"]), len(state_dict["network.conv_in.weight"])
    dim, extractor_config = width >> HALVINGS, _read_extractor_config(state_dict)
    depths = {part: _count_blocks(state_dict, part) for part in ("latent", "refinement")}
    return DPMambaIRConfig(
        dim=dim,
        encoder_depths=[_count_blocks(state_dict, f"encoder.{level}") for level in range(3)],
        latent_depth=depths["latent"],
        decoder_depths=[_count_blocks(state_dict, f"decoder.{step}") for step in (2, 1, 0)],
        refinement_depth=depths["refinement"],
        d_state=d_state,
        d_conv=state_dict[f"{BLOCK}.mixer.scan.conv.weight"].shape[-1],
        expand=channels // width,
        ffn_ratio=_read_ffn_ratio(state_dict),
        scan_directions=2 if f"{BLOCK}.mixer.reverse_scan.A_log" in state_dict else 1,
        has_heb=f"{BLOCK}.heb.scale" in state_dict,
        has_film="network.out_modulation.film.weight" in state_dict,
        has_description="description_head.out_proj.weight" in state_dict,
        reads_description=_read_condition_dim(state_dict) > extractor_config.embedding_dim,
        stem_dim=None if stem_dim == dim else stem_dim,
        first_mixer_level=_read_first_mixer_level(state_dict),
        has_linear_resampling="network.down.0.weight" in state_dict,
        has_summed_skips="network.reduce.0.weight" not in state_dict,
        extractor_config=extractor_config,
        **_read_insertion(state_dict),
    )


def _count_blocks(state_dict: StateDict, part: str) -> int:
    return get_seq_len(state_dict, f"network.{part}.blocks")


def _read_ffn_ratio(state_dict: StateDict) -> float:
    """Return the ratio of which every feed-forward's hidden width is the whole part."""
    ratios = [
        weight.shape[1] / weight.shape[0]
        for name, weight in state_dict.items()
        if name.startswith("network.") and name.endswith(".ffn.out_proj.weight")
    ]
    # A hair more, lest rounding of the quotient make a width one smaller.
    return max(ratios) * (1 + 1e-12)


def _read_first_mixer_level(state_dict: StateDict) -> int:
    """Return how often the resolution is halved before the encoder's blocks scan."""
    scans = [f"network.encoder.{level}.blocks.0.mixer.scan.A_log" in state_dict for level in range(HALVINGS)]
    return scans.index(True) if any(scans) else HALVINGS


def _read_condition_dim(state_dict: StateDict) -> int:
    """Return the width of what the network reads of a degradation; 0 where it reads nothing."""
    maps = ["network.out_modulation.film", *(f"{BLOCK}.insertion.{name}" for name in ("embed", "key_value"))]
    maps += [f"{BLOCK}.mixer.scan.prompts.{name}.in_proj" for name in PROMPTS]
    weights = (state_dict.get(f"{name}.weight") for name in maps)
    return max((weight.shape[1] for weight in weights if weight is not None), default=0)


def _read_insertion(state_dict: StateDict) -> dict[str, object]:
    """Return how the embedding enters the blocks: `insertion`, `prompts`, `prompt_dim`."""
    if (query := state_dict.get(f"{BLOCK}.insertion.query.weight")) is not None:
        return {"insertion": "attention", "prompts": [], "prompt_dim": len(query)}
    if (embed := state_dict.get(f"{BLOCK}.insertion.embed.weight")) is not None:
        return {"insertion": "concatenation", "prompts": [], "prompt_dim": len(embed)}
    maps = {name: state_dict.get(f"{BLOCK}.mixer.scan.prompts.{name}.in_proj.weight") for name in PROMPTS}
    prompts = [name for name, weight in maps.items() if weight is not None]
    return {"prompts": prompts, "prompt_dim": len(maps[prompts[0]])} if prompts else {"prompts": []}


def _read_extractor_config(state_dict: StateDict) -> DegradationExtractorConfig:
    branches = "extractor.stages.0.branches"
    is_merged = f"{branches}.merged.weight" in state_dict
    count = get_seq_len(state_dict, f"{branches}.differences")
    kernels = ["merged"] if is_merged else [f"differences.{branch}" for branch in range(count)]
    options: dict[str, object] = {}
    if (hidden := state_dict.get("description_head.hidden.weight")) is not None:
        options["description_dim"] = len(hidden)
        kinds = len(state_dict["description_head.out_proj.weight"]) // 2
        if kinds != len(DegradationExtractorConfig().degradations):
            options["degradations"] = [f"degradation {kind}" for kind in range(kinds)]
    if "extractor.norm.mean" in state_dict:
        options |= {"has_fine_statistics": True, "window": SHIPPED_WINDOW}
    if (hidden := state_dict.get("extractor.head_hidden.weight")) is not None:
        options["head_dim"] = len(hidden)
    return DegradationExtractorConfig(
        channels=[len(state_dict[f"extractor.stages.{stage}.mix.weight"]) for stage in range(4)],
        kernel_sizes=[state_dict[f"{branches}.{kernel}.weight"].shape[-1] for kernel in kernels],
        embedding_dim=len(state_dict["extractor.head.weight"]),
        is_merged=is_merged,
        **options,
    )
