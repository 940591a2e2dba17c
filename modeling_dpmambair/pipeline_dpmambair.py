"""The pipeline "image-restoration": any picture in, the restored picture out, on request with what had spoiled it."""

import math
import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature, Pipeline
from transformers.dynamic_module_utils import custom_object_save

from .tiling_dpmambair import Progress, restore_tiled

TASK = "image-restoration"
# A closed list, because Pillow also opens formats that run other programs (EPS) or hold no photographs (PDF, WMF).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Picture: TypeAlias = str | os.PathLike | Image.Image | np.ndarray


class ImageRestorationPipeline(Pipeline):
    """Restore pictures with a `DPMambaIRModel`; for `pipeline("image-restoration", model=...)`."""

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False

    def __call__(self, images: Picture | Sequence[Picture], **options: Any) -> Any:
        """Restore one picture or several.

        Args:
            images: a picture, or a list or tuple of them: path of a local file; PIL picture of any mode; NumPy array
                (H, W, 3), RGB, uint8 or float in [0, 1]. EXIF orientation is applied, an alpha channel left out.
            **options: `strength`, a number from 0 up: 0 returns the input, 1 (the default) restores, more exaggerates.
                `return_description`, whether to tell what had spoiled the picture (default: False). `memory_budget`,
                what restoring may take beside model and picture, in bytes (default: 3 GiB): larger pictures are
                restored in tiles. `progress`, called after each tile with the number of tiles that are done, and of
                all. And what every pipeline takes: `batch_size` for pictures of one size, `num_workers`.

        Returns:
            A PIL picture, RGB, of the input's size; a list of them for several. With `return_description` each is a
            dictionary: `image`, and `degradations`, which maps each kind's name to its `presence` (a probability) and
            `severity` (if it is there), in [0, 1].

        Raises:
            TypeError: an unknown option, or no picture.
            ValueError: an impossible option, or a picture without a known range.
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
    ) -> tuple[dict, dict, dict]:
        options = {"strength": strength, "return_description": return_description}
        options |= {"memory_budget": memory_budget, "progress": progress}
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
        return {}, {name: value for name, value in options.items() if value is not None}, {}

    def preprocess(self, image: Picture) -> BatchFeature:
        """Read one picture into `pixel_values`, (1, 3, H, W) float32, RGB in [0, 1]."""
        if isinstance(image, np.ndarray) and image.dtype != np.uint8:
            values = torch.from_numpy(np.ascontiguousarray(_checked_floats(image), np.float32)).permute(2, 0, 1)
            return self.image_processor(images=values, do_rescale=False, return_tensors="pt")
        return self.image_processor(images=load_picture(image), return_tensors="pt")

    def _forward(
        self, model_inputs: BatchFeature, return_description: bool = False, **options: Any
    ) -> dict[str, torch.Tensor]:
        output = restore_tiled(self.model, **model_inputs, **options)
        if not output.reconstruction.isfinite().all():
            raise FloatingPointError("the model returned values that are not finite; load it with dtype=float32")
        results = {"reconstruction": output.reconstruction}
        if return_description:
            found = self.model.describe(**model_inputs, degradation_embedding=output.degradation_embedding)
            results.update(presence=found.presence, severity=found.severity)
        return results

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> Image.Image | dict[str, Any]:
        """Turn one picture's results into what the call returns."""
        image = self.image_processor.post_process(model_outputs["reconstruction"])[0]
        if "presence" not in model_outputs:
            return image
        found = zip(*(model_outputs[name][0].tolist() for name in ("presence", "severity")), strict=True)
        names = self.model.config.extractor_config.degradations
        rows = ({"presence": presence, "severity": severity} for presence, severity in found)
        return {"image": image, "degradations": dict(zip(names, rows, strict=True))}


def load_picture(image: Picture) -> Image.Image:
    """Read a picture upright as RGB, 8 bit.

    16-bit grey is divided by 257, so that white stays white; of 16-bit colour Pillow itself keeps the high bytes.

    Args:
        image: path of a local file, PIL picture, or array (H, W, 3) of uint8.

    Raises:
        TypeError: none of these.
        ValueError: an address, an array of another shape, an animation, or pixel values without a known range.
        OSError: a file that is missing or no picture.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(_checked_shape(image), "RGB")
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    if not isinstance(image, str | os.PathLike):
        raise TypeError(f"`image` must be a path, a PIL picture or an array, got {type(image).__name__}; convert it")
    if "://" in os.fspath(image):
        raise ValueError(f"`image` must be a local file, got {image}; download it first")
    with Image.open(Path(image), formats=FORMATS) as opened:
        # Multi-picture JPEGs of phones and cameras hold the photograph first, then previews and depth maps.
        if opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1:
            raise ValueError(f"`image` must have one frame, got {opened.n_frames}; extract the frame to restore")
        return _to_rgb(opened)


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"`image` must have 8 or 16 bits per channel, got mode {image.mode}; convert it first")
    return image.convert("RGB")


def _checked_shape(array: np.ndarray) -> np.ndarray:
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"`image` must be of shape (H, W, 3), got {array.shape}; give RGB, channels last")
    return array


def _checked_floats(array: np.ndarray) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"`image` must be uint8 or float, got {array.dtype}; convert it to one of them")
    low, high = _checked_shape(array).min(), array.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"`image` must be in [0, 1] if it is float, got [{low}, {high}]; divide it by its range")
    return array


__all__ = ["ImageRestorationPipeline"]
