"""How a picture is restored and encoded, alike in files, tar archives and rows of data sets."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dpmambair.settings import Settings
from modeling_dpmambair import Picture, Restorer, write_picture
from modeling_dpmambair.large_pictures_dpmambair import Progress

# Of each kind of degradation, its presence (a probability) and its severity, in [0, 1].
Detected = dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Restored:
    """A picture before and after.

    Attributes:
        degraded: as it was read.
        picture: restored.
        seconds: that the model took for it.
        detected: what had spoiled it, if that was asked for.
    """

    degraded: Picture
    picture: Picture
    seconds: float
    detected: Detected | None = None


def share_devices(device: str, rank: int | str | None) -> str:
    """Return the device of a process: of several GPUs each takes one, in turn.

    Args:
        device: what was asked for; only `auto` is shared out.
        rank: number of the process on its machine, from 0; None if it is alone.
    """
    if device != "auto" or rank is None or not torch.cuda.is_available():
        return device
    return f"cuda:{int(rank) % torch.cuda.device_count()}"


def restore_pictures(
    pictures: Sequence[Picture], restorer: Restorer, strength: float, report: bool, progress: Progress | None = None
) -> list[Restored]:
    """Restore pictures of one size, all at once.

    Args:
        pictures: what was read.
        restorer: restores.
        strength: factor on the correction.
        report: whether to tell what had spoiled each.
        progress: called after each step of the work.

    Raises:
        FloatingPointError: the model returned values that are not finite.
        ValueError: too little memory for tiles.
    """
    start = time.perf_counter()
    several = len(pictures) > 1  # one is not copied: it may be large
    pixels = torch.stack([picture.pixels for picture in pictures]) if several else pictures[0].pixels[None]
    output = restorer.restore(pixels, strength=strength, progress=progress)
    detected = [None] * len(pictures)
    if report:
        detected = describe_degradations(restorer, pixels, output.degradation_embedding)
    restored = [picture.with_pixels(each) for picture, each in zip(pictures, output.reconstruction, strict=True)]
    seconds = (time.perf_counter() - start) / len(pictures)
    return [Restored(*each[:2], seconds, each[2]) for each in zip(pictures, restored, detected, strict=True)]


def describe_degradations(restorer: Restorer, pixels: torch.Tensor, embedding: torch.Tensor) -> list[Detected]:
    """Tell what spoiled each picture.

    Args:
        restorer: its model has a head that describes.
        pixels: (B, 3, H, W), RGB in [0, 1].
        embedding: theirs, (B, E), as the restoration found it.
    """
    with torch.inference_mode():
        embedding = embedding.to(restorer.model.device, restorer.model.dtype)  # bfloat16 where that was computed in
        found = restorer.model.describe(pixels, degradation_embedding=embedding)
    names = restorer.model.config.extractor_config.degradations
    pairs = torch.stack([found.presence, found.severity], -1).float().cpu().tolist()
    return [
        {name: {"presence": round(p, 4), "severity": round(s, 4)} for name, (p, s) in zip(names, rows, strict=True)}
        for rows in pairs
    ]


def summarize(detected: Detected) -> str:
    """Name the degradations that are more likely there than not, the likeliest first, in one line."""
    present = sorted((d for d in detected.items() if d[1]["presence"] >= 0.5), key=lambda d: -d[1]["presence"])
    named = (f"{name} {values['presence']:.2f} (severity {values['severity']:.2f})" for name, values in present)
    return ", ".join(named) or "no degradation"


def encode(picture: Picture, format: str, settings: Settings) -> bytes:
    """Return the content of a file that holds a picture.

    Args:
        picture: what to write.
        format: Pillow's name.
        settings: quality and metadata.

    Raises:
        OSError: the format cannot hold it.
        ValueError: an unknown format.
    """
    content = io.BytesIO()
    write_picture(picture, content, format, settings.quality, settings.keep_metadata)
    return content.getvalue()
