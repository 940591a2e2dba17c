"""The one restorer: a trained model and its processor, on the device and in the dtype that suit the machine."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Self

import torch
from PIL import Image

from .configuration_dpmambair import DPMambaIRConfig
from .image_processing_dpmambair import DPMambaIRImageProcessor
from .large_pictures_dpmambair import MEMORY_BUDGET, Progress, embed_picture, restore_tiled
from .modeling_dpmambair import DPMambaIRModel, DPMambaIROutput
from .picture_dpmambair import Picture
from .picture_errors_dpmambair import naming
from .picture_files_dpmambair import PictureSource, read_picture
from .steering_dpmambair import choose_kept, steer_embedding

# In which a self-ensemble sees a picture.
FLIPS_AND_TURNS = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Pictures with a side of fewer pixels are computed in float32 always: with AMX, torch 2.14 leaves the output of a
# bfloat16 convolution of stride 2 unwritten where it is one column wide, as an extractor's last may be.
LEAST_MIXED = 32


@dataclass(frozen=True)
class Restorer:
    """A trained model with its processor, ready to restore one picture at a time.

    Attributes:
        model: restores, on the device that it is on.
        processor: turns pictures into tensors and back.
        dtype: bfloat16 to compute in it by autocast all but pictures of a few pixels' width or height; float32 to
            compute in the dtype of the weights.
        memory_budget: what restoring may take beside model and picture, bytes; larger pictures are restored in tiles.
        kept: kinds of degradation that stay in the picture.
        self_ensemble: whether a picture is restored in all eight flips and turns, and the results averaged.
    """

    model: DPMambaIRModel
    processor: DPMambaIRImageProcessor
    dtype: torch.dtype = torch.float32
    memory_budget: int = MEMORY_BUDGET
    kept: tuple[str, ...] = ()
    self_ensemble: bool = False

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        memory_budget: int = MEMORY_BUDGET,
    ) -> Self:
        """Load model and processor.

        Args:
            source: folder that `save_pretrained` of both wrote, or a repository of the Hub.
            device: a torch device, or `auto` for the accelerator if there is one, otherwise the CPU.
            dtype: `float32`, `bfloat16`, or `auto` for bfloat16 where the device is faster in it.
            memory_budget: what restoring may take beside model and picture, bytes.

        Raises:
            ValueError: nothing that loads, no restorer, weights that are not complete, or no such device or dtype.
        """
        try:
            model = _load(source)
            processor = DPMambaIRImageProcessor.from_pretrained(source)
            place = choose_device(device)
            model = model.to(place)
        except Exception as error:
            raise ValueError(f"cannot load {source} on device {device}: {_tell(error)}") from error
        return cls(model, processor, choose_dtype(dtype, place), memory_budget)

    def controlled(self, only: Sequence[str] = (), keep: Sequence[str] = (), self_ensemble: bool = False) -> Self:
        """Return a restorer of the same model that repairs some kinds of degradation alone, or more carefully.

        Args:
            only: the kinds to repair, all others stay; empty for all.
            keep: the kinds that stay; not beside `only`.
            self_ensemble: whether to average over all eight flips and turns, which takes eight times as long.

        Raises:
            ValueError: both are given, a kind is unknown, or the model does not read its description and so cannot be
                steered.
        """
        return replace(self, kept=choose_kept(self.model.config, only, keep), self_ensemble=self_ensemble)

    def __call__(self, source: PictureSource, strength: float = 1, progress: Progress | None = None) -> Image.Image:
        """Restore a picture into one of 8 bits to look at; `restore_picture` keeps depth and metadata.

        Args:
            source: whatever `read_picture` reads.
            strength: factor on the correction: 0 returns the input, 1 restores, more exaggerates.
            progress: called after each step of the work with the number of steps that are done, and of all.

        Returns:
            The picture restored, of the same size, upright, mode L or RGB, with the alpha channel and the ICC profile
            that it had.

        Raises:
            FloatingPointError: the model returned values that are not finite.
            ValueError: no picture that can be restored, or too little memory for tiles.
        """
        with naming(source):
            picture = read_picture(source).check_still()
        return self.restore_picture(picture, strength, progress).image

    def restore_picture(
        self,
        picture: Picture,
        strength: float = 1,
        progress: Progress | None = None,
        degradation_embedding: torch.Tensor | None = None,
    ) -> Picture:
        """Restore a picture that was read; depth, grey, alpha and metadata stay as they are.

        Args:
            picture: what `read_picture` returned. An animation is restored frame by frame, all with one embedding.
            strength: as in a call.
            progress: as in a call; of an animation called for each frame anew.
            degradation_embedding: used instead of the model's own, (1, E).

        Raises:
            FloatingPointError: the model returned values that are not finite.
            ValueError: too little memory for tiles.
        """
        if picture.later and degradation_embedding is None:
            degradation_embedding = self.embed(picture)
        options = {"strength": strength, "progress": progress, "degradation_embedding": degradation_embedding}
        restored = self.restore(picture.fill_hidden()[None], **options).reconstruction[0]
        later = tuple(self.restore_picture(each, **options) for each in picture.later)
        return replace(picture.with_pixels(restored), later=later)

    def embed(self, picture: Picture) -> torch.Tensor | None:
        """Return the embedding of a picture's degradation, (1, E), of an animation the mean over its frames.

        One embedding for all frames is what keeps an animation from flickering. None if the model reads none from
        pictures.
        """
        if not self._has_extractor:
            return None
        pixels = (each.fill_hidden()[None] for each in picture.frames)
        found = []
        for each in pixels:
            with self._autocast(each):
                found.append(embed_picture(self.model.extractor, each, self.memory_budget))
        return torch.stack(found).mean(0)

    def restore(
        self,
        pixel_values: torch.Tensor,
        strength: float = 1,
        progress: Progress | None = None,
        degradation_embedding: torch.Tensor | None = None,
    ) -> DPMambaIROutput:
        """Restore pictures that are tensors, (B, 3, H, W), RGB in [0, 1], on any device; the rest is as in a call.

        The embeddings that are returned are those of the pictures, also where the network was given others.
        """
        own, restore = degradation_embedding, self._restore_in_turns if self.self_ensemble else self._restore_once
        with self._autocast(pixel_values):
            if own is None and (self.kept or self.self_ensemble) and self._has_extractor:
                own = embed_picture(self.model.extractor, pixel_values, self.memory_budget)
            output = restore(pixel_values, strength, progress, self._steer(own))
        if own is not None:
            output.degradation_embedding = own
        # The bounds are not finite if any value is not; asking each would take as much memory as the picture.
        if not all(bound.isfinite() for bound in output.reconstruction.aminmax()):
            raise FloatingPointError("the model returned values that are not finite; try dtype float32")
        return output

    def _steer(self, embedding: torch.Tensor | None) -> torch.Tensor | None:
        if not self.kept or embedding is None:
            return embedding
        known = self.model.config.extractor_config.degradations
        embedding = embedding.to(self.model.device)
        return steer_embedding(self.model.description_head, embedding, [known.index(kind) for kind in self.kept])

    def _restore_once(
        self, pixel_values: torch.Tensor, strength: float, progress: Progress | None, embedding: torch.Tensor | None
    ) -> DPMambaIROutput:
        options = {"degradation_embedding": embedding, "strength": strength, "progress": progress}
        return restore_tiled(self.model, pixel_values, memory_budget=self.memory_budget, **options)

    def _restore_in_turns(
        self, pixel_values: torch.Tensor, strength: float, progress: Progress | None, embedding: torch.Tensor | None
    ) -> DPMambaIROutput:
        """Average over all flips and turns; one embedding serves for all, as what spoiled a picture does not turn."""
        total: torch.Tensor | float = 0
        for place in range(FLIPS_AND_TURNS):
            count = _count_on(progress, place, FLIPS_AND_TURNS) if progress else None
            output = self._restore_once(turn(pixel_values, place), strength, count, embedding)
            total = total + turn_back(output.reconstruction.float(), place)
        output.reconstruction = total / FLIPS_AND_TURNS
        return output

    @property
    def _has_extractor(self) -> bool:
        return self.model.config.embedding_source == "extractor"

    def _autocast(self, pixel_values: torch.Tensor) -> AbstractContextManager:
        # Without one of its own, an autocast that the caller has switched on holds.
        is_mixed = self.dtype == torch.bfloat16 and min(pixel_values.shape[-2:]) >= LEAST_MIXED
        return torch.autocast(self.model.device.type, self.dtype) if is_mixed else nullcontext()


def load_model(source: str | os.PathLike) -> DPMambaIRModel:
    """Load a restorer alone, on the CPU, to look at it or to change it.

    Args:
        source: folder that `save_pretrained` wrote, or a repository of the Hub.

    Raises:
        ValueError: nothing that loads, no restorer, or weights that are not complete.
    """
    try:
        return _load(source)
    except Exception as error:
        raise ValueError(f"cannot load {source}: {_tell(error)}") from error


def _load(source: str | os.PathLike) -> DPMambaIRModel:
    found = DPMambaIRConfig.get_config_dict(source)[0].get("model_type")
    if found != DPMambaIRConfig.model_type:
        raise ValueError(f"`model_type` must be {DPMambaIRConfig.model_type}, got {found}; give a restorer")
    model, report = DPMambaIRModel.from_pretrained(source, output_loading_info=True)
    if missing := len(report["missing_keys"]):
        raise ValueError(f"weights must be complete, got {missing} missing; save the model again")
    return model.eval()


def _tell(error: Exception) -> str:
    """Return in one line, whole, why a folder does not load; that surfaces as one of half a dozen unrelated types."""
    return " ".join(str(error).split()) or type(error).__name__


def turn(pictures: torch.Tensor, place: int) -> torch.Tensor:
    """Turn pictures (B, 3, H, W) by `place` quarters, 0 to 3, or 4 to 7, mirrored afterwards."""
    turned = torch.rot90(pictures, place % 4, (2, 3))
    return turned.flip(3) if place >= 4 else turned


def turn_back(pictures: torch.Tensor, place: int) -> torch.Tensor:
    """Undo `turn`."""
    return torch.rot90(pictures.flip(3) if place >= 4 else pictures, -place % 4, (2, 3))


def _count_on(progress: Progress, before: int, rounds: int) -> Progress:
    """Return what reports the steps of one of several rounds as those of all."""
    return lambda done, total: progress(before * total + done, rounds * total)


def choose_device(device: str | torch.device) -> torch.device:
    """Return the torch device of that name; `auto` is the accelerator if there is one, otherwise the CPU."""
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype of that name; `auto` is bfloat16 where `device` is faster in it.

    Raises:
        ValueError: neither `auto` nor a name in `DTYPES`.
    """
    if dtype == "auto":
        return torch.bfloat16 if is_bfloat16_faster(device) else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be auto or one of {', '.join(DTYPES)}, got {dtype}; choose one")
    return DTYPES[dtype]


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device, CUDA or CPU, computes in bfloat16 itself; of others nothing is known."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(features.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def is_bfloat16_faster(device: torch.device) -> bool:
    """Tell whether a device, CUDA or CPU, computes faster in bfloat16 than in float32.

    It does not where it emulates it, nor on Intel's processors without AMX: their matrix products run at half of
    float32's rate (`python -m benchmarks.forward` measures both ceilings).
    """
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    is_slow = "Intel" in features.get("cpu_name", "") and not features.get("amx_bf16", False)
    return has_bfloat16(device) and not is_slow


__all__ = ["Restorer", "choose_device", "choose_dtype", "has_bfloat16", "is_bfloat16_faster", "load_model"]
