"""How a picture is restored and encoded, alike in files, tar archives and rows of data sets."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from dpmambair.settings import Settings
from modeling_dpmambair import Picture, Restorer, write_picture
from modeling_dpmambair.large_pictures_dpmambair import Progress

# Of each kind of degradation, its presence (a probability) and its severity, in [0, 1].
Detected = dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Restored:
    """What came of a picture.

    Attributes:
        picture: restored.
        seconds: that the model took for it.
        detected: what had spoiled it, if that was asked for.
        degraded: as it was read, if it is to be shown; otherwise its memory is free while the other is written.
    """

    picture: Picture
    seconds: float
    detected: Detected | None = None
    degraded: Picture | None = None


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
    """Restore pictures: those of one size all at once, animations frame by frame.

    Args:
        pictures: what was read.
        restorer: restores.
        strength: factor on the correction.
        report: whether to tell what had spoiled each.
        progress: called after each step of the work.

    Raises:
        FloatingPointError: the model returned values that are not finite.
        ValueError: too little memory for tiles, or several pictures of more than one size.
    """
    start = time.perf_counter()
    if any(picture.later for picture in pictures):
        pairs = [_restore_animation(picture, restorer, strength, progress) for picture in pictures]
    else:
        pairs = _restore_stills(pictures, restorer, strength, progress)
    seconds = (time.perf_counter() - start) / len(pictures)
    return [
        Restored(after, seconds, _round(describe_degradations(restorer, before, embedding)) if report else None)
        for before, (after, embedding) in zip(pictures, pairs, strict=True)
    ]


def _restore_stills(
    pictures: Sequence[Picture], restorer: Restorer, strength: float, progress: Progress | None
) -> list[tuple[Picture, torch.Tensor | None]]:
    several = len(pictures) > 1  # one is not copied: it may be large
    pixels = [picture.fill_hidden() for picture in pictures]
    output = restorer.restore(torch.stack(pixels) if several else pixels[0][None], strength, progress)
    embeddings = output.degradation_embedding
    embeddings = [None] * len(pictures) if embeddings is None else embeddings[:, None]
    restored = (picture.with_pixels(each) for picture, each in zip(pictures, output.reconstruction, strict=True))
    return list(zip(restored, embeddings, strict=True))


def _restore_animation(
    picture: Picture, restorer: Restorer, strength: float, progress: Progress | None
) -> tuple[Picture, torch.Tensor | None]:
    embedding = restorer.embed(picture)
    return restorer.restore_picture(picture, strength, progress, embedding), embedding


def size_of(picture: Picture) -> tuple[int, int]:
    """Return width and height in pixels, of an animation the height of all frames."""
    return picture.size[0], picture.size[1] * len(picture.frames)


def show(picture: Picture) -> Image.Image:
    """Return a picture in 8 bits, of an animation its first frame."""
    return picture.frames[0].image


def describe_degradations(restorer: Restorer, picture: Picture, embedding: torch.Tensor) -> Detected:
    """Tell what spoiled a picture.

    Args:
        restorer: its model has a head that describes.
        picture: degraded.
        embedding: its own, (1, E), as the restoration found it.
    """
    model = restorer.model
    with torch.inference_mode():
        embedding = embedding.to(model.device, model.dtype)  # it may have been computed in bfloat16
        found = model.describe(picture.pixels[None], degradation_embedding=embedding)
    return found.by_name(model.config.extractor_config.degradations)


def _round(detected: Detected) -> Detected:
    return {kind: {name: round(value, 4) for name, value in values.items()} for kind, values in detected.items()}


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
