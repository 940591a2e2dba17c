"""The model behind the page: it restores each picture once and then gives it at any strength."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias

import torch
from cachetools import TTLCache, cachedmethod
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageToImage, Pipeline, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from .pictures import LIFETIME, Picture, read_file, read_upload

# Where our package is installed it registers the pipeline; elsewhere the model's repository brings the code.
with contextlib.suppress(ImportError):
    import modeling_dpmambair  # noqa: F401

TASK = "image-restoration"
MEMORY = 2**30

# For each degradation the probability that it is there (`presence`), and its `severity` if it is; both in [0, 1].
Degradations: TypeAlias = dict[str, dict[str, float]]
Progress: TypeAlias = Callable[[int, int], None]


class Control(NamedTuple):
    """What is repaired, and how.

    Attributes:
        keep: kinds of degradation that stay.
        self_ensemble: whether to average over all eight flips and turns.
    """

    keep: tuple[str, ...] = ()
    self_ensemble: bool = False


# All is repaired, in one go.
DEFAULT = Control()


@dataclass(frozen=True)
class Restoration:
    """One picture's restoration at every strength, since the network's correction is scaled and never recomputed.

    Attributes:
        picture: as it was read, upright.
        reconstruction: the restored picture at strength 1, (1, 3, H, W) float32, RGB, not clamped.
        degradations: what had spoiled it; None from a model that does not describe.
    """

    picture: Picture
    reconstruction: torch.Tensor
    degradations: Degradations | None

    @property
    def degraded(self) -> Image.Image:
        """The picture in 8 bits, to show."""
        return self.picture.image

    @property
    def byte_count(self) -> int:
        """The memory that this takes."""
        alpha = self.picture.alpha
        return self.picture.pixels.nbytes + self.reconstruction.nbytes + (0 if alpha is None else alpha.nbytes)


class Restorer:
    """A trained model that restores one picture at a time and remembers the last ones, for an hour at most."""

    def __init__(self, restore: Pipeline, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipeline, self.name = restore, name
        self._cache = TTLCache(MEMORY, LIFETIME, clock, getsizeof=lambda restoration: restoration.byte_count)
        self._changes = threading.Condition()
        self._network = threading.Lock()

    @classmethod
    def from_source(cls, source: str) -> Self:
        """Load a trained model.

        Args:
            source: a local folder, or a repository of the Hub as `OWNER/NAME` or `OWNER/NAME@REVISION`. Its code
                runs: name only one that you trust.

        Raises:
            ValueError: nothing that loads, or a model without all of its trained weights.
        """
        is_local = Path(source).is_dir()
        name, _, revision = (source, "", "") if is_local else source.partition("@")
        options = {"revision": revision or None, "trust_remote_code": True}
        try:
            restore, missing = _load(name, options)
        except Exception as error:  # a broken folder surfaces as one of half a dozen unrelated types
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"`DPMAMBAIR_MODEL` must be a trained restorer, got {source}; give its folder or repository: {reason}"
            ) from error
        if missing:
            raise ValueError(f"weights must be complete, got {missing} missing in {source}; give a trained model")
        return cls(restore, Path(name).resolve().name if is_local else name)

    @property
    def describes(self) -> bool:
        """Whether the model tells what had spoiled a picture."""
        return self._pipeline.model.config.has_description

    @property
    def million_parameters(self) -> float:
        """The size of the model."""
        return self._pipeline.model.num_parameters() / 1e6

    @property
    def steers(self) -> tuple[str, ...]:
        """The kinds that can be repaired or kept one by one; none of a model that cannot be steered."""
        config = self._pipeline.model.config
        return tuple(config.extractor_config.degradations) if config.reads_description else ()

    def restore(self, path: str | Path, control: Control = DEFAULT, progress: Progress | None = None) -> Restoration:
        """Restore a picture, or recall its restoration.

        Args:
            path: a local file.
            control: what is repaired, and how.
            progress: called after each tile with the number of tiles that are done, and of all.

        Raises:
            UnusablePictureError: a file that is no picture or none for this page.
        """
        return self._restore(read_file(path), control, progress)

    def at_strength(self, restoration: Restoration, strength: float) -> Picture:
        """Return the picture restored to a degree: 0 leaves it as it was, 1 restores, more exaggerates."""
        degraded = restoration.picture
        mixed = torch.lerp(degraded.fill_hidden(), restoration.reconstruction[0], strength)
        return degraded.with_pixels(mixed)

    def forget(self) -> None:
        """Drop what is older than `LIFETIME`: nobody gets it any more, but it would stay until the next picture."""
        with self._changes:
            self._cache.expire()

    def write(self, picture: Picture, target: Path) -> None:
        """Write a picture as PNG, with its depth, transparency and metadata."""
        self._pipeline.write_picture(picture, target, "PNG")

    @cachedmethod(
        lambda self: self._cache,
        key=lambda self, data, control, _: (hashlib.sha256(data).digest(), control),
        condition=lambda self: self._changes,
    )
    def _restore(self, data: bytes, control: Control, progress: Progress | None) -> Restoration:
        picture = read_upload(data, self._pipeline.read_picture)
        inputs = self._pipeline.preprocess(picture)
        # A second picture beside the first would only slow both down.
        with self._network:
            options = {"return_description": self.describes, "progress": progress, **control._asdict()}
            outputs = self._pipeline.forward(inputs, **options)
        reconstruction = outputs["reconstruction"].float().cpu().clone()  # the other is clamped now
        result = self._pipeline.postprocess(outputs, return_picture=True)
        degradations = result["degradations"] if self.describes else None
        return Restoration(picture, reconstruction, degradations)


def _load(name: str, options: dict[str, str | bool | None]) -> tuple[Pipeline, int]:
    """Load a model's pipeline, and count the weights that its files lack: `pipeline` would draw them at random."""
    model, found = AutoModelForImageToImage.from_pretrained(name, output_loading_info=True, **options)
    processor = AutoImageProcessor.from_pretrained(name, **options)
    # Of a model that brings its code; otherwise our package has registered one.
    own = getattr(model.config, "custom_pipelines", {}).get(TASK)
    kind = own and get_class_from_dynamic_module(own["impl"], name, revision=options["revision"])
    given = {"model": model, "config": model.config, "image_processor": processor, "pipeline_class": kind}
    return pipeline(TASK, trust_remote_code=True, **given), len(found["missing_keys"])
