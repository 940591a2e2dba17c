"""The pipeline "image-restoration": any picture in, the restored picture out, on request with what had spoiled it."""

import math
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, Pipeline
from transformers.dynamic_module_utils import custom_object_save

from .large_pictures_dpmambair import MEMORY_BUDGET, Progress
from .modeling_degradation_extractor import DegradationDescription
from .picture_errors_dpmambair import naming
from .picture_files_dpmambair import Picture, PictureSource, read_picture, write_picture
from .restorer_dpmambair import Restorer
from .steering_dpmambair import choose_kept

TASK = "image-restoration"


class ImageRestorationPipeline(Pipeline):
    """Restore pictures with a `DPMambaIRModel`; for `pipeline("image-restoration", model=...)`."""

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False

    # For whoever has the pipeline only, without this package.
    read_picture = staticmethod(read_picture)
    write_picture = staticmethod(write_picture)

    def __call__(self, images: PictureSource | Sequence[PictureSource], **options: Any) -> Any:
        """Restore one picture or several.

        Args:
            images: a picture, or a list or tuple of them, each of what `read_picture` reads.
            **options: `strength`, a number from 0 up: 0 returns the input, 1 (the default) restores, more exaggerates.
                `only`, a list of the kinds of degradation that are repaired, or `keep`, of those that are not
                (default: all are repaired). `self_ensemble`, whether to average over all eight flips and turns, which
                takes eight times as long (default: False). `return_description`, whether to tell what had spoiled the
                picture (default: False). `return_picture`, whether to return what `write_picture` writes, with the
                input's depth, metadata and frames, in place of a PIL picture (default: False). `memory_budget`, what
                restoring may take beside model and picture, in bytes (default: 3 GiB): larger pictures are restored
                in tiles. `progress`, called after each tile with the number of tiles that are done, and of all. And
                what every pipeline takes: `batch_size` for pictures of one size, `num_workers`.

        Returns:
            A PIL picture of the input's size, 8 bit, RGB or grey, with the alpha channel and the colour profile that
            it had; a list of them for several. With `return_description` each is a dictionary: `image`, and
            `degradations`, which maps each kind's name to its `presence` (a probability) and `severity` (if it is
            there), in [0, 1].

        Raises:
            TypeError: an unknown option, or no picture.
            ValueError: an impossible option, a picture without a known range, an animation without `return_picture`,
                or beside other pictures in a batch.
            OSError: a file that is missing or no picture.
            FloatingPointError: the model returned values that are not finite.
        """
        several = isinstance(images, list | tuple)
        return [] if several and not images else super().__call__(list(images) if several else images, **options)

    def save_pretrained(self, save_directory: str | os.PathLike, **options: Any) -> None:
        """Save model, processor and the code of all three, so that the folder names this pipeline.

        Args:
            save_directory: folder to write into.
            **options: as for the model's `save_pretrained`.
        """
        name = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        task = {"impl": name, "pt": ["AutoModelForImageToImage"], "type": "image"}
        # transformers does the same for registered pipelines; one that came as remote code is not registered.
        self.model.config.custom_pipelines = {TASK: task}
        super().save_pretrained(save_directory, **options)
        custom_object_save(self, save_directory)

    def _sanitize_parameters(
        self,
        strength: float | None = None,
        return_description: bool | None = None,
        memory_budget: int | None = None,
        progress: Progress | None = None,
        return_picture: bool | None = None,
        *,
        only: Sequence[str] | None = None,
        keep: Sequence[str] | None = None,
        self_ensemble: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        options = {"strength": strength, "return_description": return_description}
        options |= {"memory_budget": memory_budget, "progress": progress}
        options |= {"only": only, "keep": keep, "self_ensemble": self_ensemble}
        if strength is not None and not (isinstance(strength, Real) and 0 <= strength < math.inf):
            raise ValueError(f"`strength` must be a number from 0 up, got {strength!r}; 1 restores, 0 does nothing")
        if memory_budget is not None and not (isinstance(memory_budget, int) and memory_budget > 0):
            rule = f"a positive number of bytes, got {memory_budget!r}"
            raise ValueError(f"`memory_budget` must be {rule}; 3 * 2**30 is the default")
        if return_description and not self.model.config.has_description:
            raise ValueError(
                "`return_description` must be false for a model that cannot describe, got True; "
                "call its load_description first"
            )
        choose_kept(self.model.config, only or (), keep or ())
        form = {} if return_picture is None else {"return_picture": return_picture}
        return form, {name: value for name, value in options.items() if value is not None}, form

    def preprocess(self, image: PictureSource, return_picture: bool = False) -> BatchFeature:
        """Read one picture: `picture`, and its `pixel_values`, (1, 3, H, W) float32, RGB in [0, 1]."""
        with naming(image):
            picture = read_picture(image)
            if not return_picture:
                picture.check_still()
        return BatchFeature({"pixel_values": picture.fill_hidden()[None], "picture": picture})

    def _forward(
        self,
        model_inputs: BatchFeature,
        return_description: bool = False,
        memory_budget: int = MEMORY_BUDGET,
        strength: float = 1,
        progress: Progress | None = None,
        **control: Any,
    ) -> dict[str, Any]:
        restorer = Restorer(self.model, self.image_processor, memory_budget=memory_budget).controlled(**control)
        options = {"strength": strength, "progress": progress}
        pixel_values, picture = model_inputs["pixel_values"], model_inputs["picture"]
        if any(each.later for each in (picture if isinstance(picture, list) else [picture])):
            embedding, results = _restore_frames(restorer, picture, options)
        else:
            output = restorer.restore(pixel_values, **options)
            embedding, results = output.degradation_embedding, {"reconstruction": output.reconstruction}
        if return_description:
            found = self.model.describe(pixel_values, degradation_embedding=embedding)
            results.update(presence=found.presence, severity=found.severity)
        return {"picture": picture, **results}

    def postprocess(
        self, model_outputs: dict[str, Any], return_picture: bool = False
    ) -> Image.Image | Picture | dict[str, Any]:
        """Turn one picture's results into what the call returns."""
        restored = model_outputs["picture"]
        if "reconstruction" in model_outputs:
            restored = restored.with_pixels(model_outputs["reconstruction"][0])
        image = restored if return_picture else restored.image
        if "presence" not in model_outputs:
            return image
        found = DegradationDescription(presence=model_outputs["presence"], severity=model_outputs["severity"])
        return {"image": image, "degradations": found.by_name(self.model.config.extractor_config.degradations)}


def _restore_frames(
    restorer: Restorer, picture: Picture | list[Picture], options: dict[str, Any]
) -> tuple[torch.Tensor | None, dict[str, Any]]:
    """Restore an animation; return the embedding of its frames, and it."""
    if isinstance(picture, list):
        raise ValueError("`batch_size` must be 1 for an animation, got more; restore it by itself")
    embedding = restorer.embed(picture)
    return embedding, {"picture": restorer.restore_picture(picture, degradation_embedding=embedding, **options)}


__all__ = ["ImageRestorationPipeline"]
