"""What decides how a restored file looks, beside its picture and the model."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

import dpmambair
from dpmambair.files import hash_files

if TYPE_CHECKING:
    from modeling_dpmambair import Restorer

# By the name that is asked for: Pillow's, and the usual suffix.
FORMATS = {
    "png": ("PNG", ".png"),
    "jpeg": ("JPEG", ".jpg"),
    "webp": ("WEBP", ".webp"),
    "tiff": ("TIFF", ".tif"),
    "avif": ("AVIF", ".avif"),
}
# Those of them whose quality can be chosen.
LOSSY = ("jpeg", "webp", "avif")


@dataclass(frozen=True)
class Settings:
    """What decides how a restored file looks.

    Attributes:
        strength: factor on the correction: 0 does nothing, 1 restores, more exaggerates.
        format: a name of `FORMATS`; None for the format that each picture came in.
        quality: 1 to 100, of formats that lose detail; None for the writer's default.
        keep_metadata: whether EXIF, XMP, resolution and text are written.
        only: kinds of degradation that are repaired, all others stay; empty for all.
        keep: kinds that stay.
        self_ensemble: whether a picture is restored in all eight flips and turns, and the results averaged.
    """

    strength: float = 1.0
    format: str | None = None
    quality: int | None = None
    keep_metadata: bool = True
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    self_ensemble: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be; a `ValueError` says what and why."""
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"`strength` must be a number from 0 up, got {self.strength}; 1 restores, 0 does nothing")
        if self.format and (self.format not in FORMATS or not _is_written(FORMATS[self.format][0])):
            names = ", ".join(name for name, (pillow, _) in FORMATS.items() if _is_written(pillow))
            raise ValueError(f"`format` must be one that this Pillow writes, got {self.format}; choose of {names}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"`quality` must be from 1 to 100, got {self.quality}; leave it out for the best")
        if self.quality is not None and self.format not in (None, *LOSSY):
            rule = f"given with {', '.join(LOSSY)} alone, got it with {self.format}"
            raise ValueError(f"`quality` must be {rule}; leave it out")

    def control(self, restorer: "Restorer") -> "Restorer":
        """Return a restorer that repairs what is asked for.

        Raises:
            ValueError: its model knows no such kind, or cannot be steered.
        """
        return restorer.controlled(self.only, self.keep, self.self_ensemble)

    def fingerprint(self, model: Path, dtype: str) -> dict[str, object]:
        """Return what a file restored with these settings depends on, and a hash of all of it under `settings`.

        Args:
            model: folder of the model.
            dtype: in which it computes.
        """
        files = hash_files(sorted([*model.glob("*.safetensors"), *model.glob("*.json")]))
        values = {**asdict(self), "dtype": dtype, "model": files, "version": dpmambair.__version__}
        return {"settings": hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16], **values}

    def choose_format(self, own: str | None) -> str:
        """Return Pillow's name of the format to write: PNG where this Pillow does not write a picture's own.

        Args:
            own: that of the picture as it came, Pillow's name.
        """
        if self.format:
            return FORMATS[self.format][0]
        return own if own and _is_written(own) else "PNG"


def split_kinds(text: str | None) -> tuple[str, ...]:
    """Return the kinds of degradation that a text names, as `haze,noise`."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _is_written(name: str) -> bool:
    Image.init()
    return name in Image.SAVE
