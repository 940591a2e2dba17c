"""What a picture's file says beside its pixels: EXIF, colour profile, XMP, resolution and text, in and out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

# Tags of a TIFF file that describe how its pixels are stored, or are kept apart here; the others describe the picture.
STORAGE_TAGS = frozenset(
    (*range(254, 267), 273, 277, 278, 279, *range(284, 286), *range(288, 294), 297, 301, *range(317, 334))
    + (*range(336, 348), 351, *range(512, 533), 700, 34377, 34675, 37724, 50341)
)
# The sizes that EXIF repeats.
EXIF_WIDTH, EXIF_HEIGHT = 40962, 40963
ORIENTATION = ExifTags.Base.Orientation
XMP_ORIENTATION = re.compile(rb'tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')
# Keys of `info` that hold text of other kinds.
NOT_TEXT = ("XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1")


@dataclass(frozen=True)
class Metadata:
    """What a picture's file says beside its pixels, true of the upright picture.

    Attributes:
        exif: EXIF data as JPEG files hold it, without orientation and thumbnail.
        icc_profile: what the colours mean.
        xmp: an XMP packet.
        dpi: pixels per inch, horizontally and vertically.
        text: texts by their keywords, `Comment` for those without.
    """

    exif: bytes | None = None
    icc_profile: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)


def read_orientation(exif: Image.Exif) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 for values that mean nothing."""
    found = exif.get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def read_metadata(info: Mapping[str, Any], exif: Image.Exif, size: tuple[int, int], channels: int) -> Metadata:
    """Collect the metadata of an opened picture.

    Args:
        info: what Pillow found beside the pixels.
        exif: the file's EXIF tags; of a TIFF file all its tags.
        size: width and height of the upright picture.
        channels: of colour, 1 or 3; a profile of anything else is left out.
    """
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    profile = info.get("icc_profile")
    return Metadata(
        exif=_upright_exif(exif, size),
        icc_profile=profile if profile and profile[16:20] == (b"GRAY" if channels == 1 else b"RGB ") else None,
        xmp=XMP_ORIENTATION.sub(b"", xmp) if isinstance(xmp, bytes) else None,
        dpi=info.get("dpi"),
        text=_read_text(info),
    )


def _upright_exif(exif: Image.Exif, size: tuple[int, int]) -> bytes | None:
    upright = Image.Exif()
    for tag in set(exif) - STORAGE_TAGS - {ORIENTATION, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}:
        upright[tag] = exif[tag]
    for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if tag in exif and (found := dict(exif.get_ifd(tag))):
            sizes = {EXIF_WIDTH: size[0], EXIF_HEIGHT: size[1]}
            upright[tag] = found | {each: sizes[each] for each in sizes if each in found}
    return upright.tobytes() if len(upright) else None


def _read_text(info: Mapping[str, Any]) -> dict[str, str]:
    texts = {key: str(value) for key, value in info.items() if isinstance(value, str) and key not in NOT_TEXT}
    comment = info.get("comment")
    if isinstance(comment, bytes):
        texts["Comment"] = comment.decode("utf-8", "replace")
    return texts


def save_options(metadata: Metadata, format: str) -> dict[str, Any]:
    """Return the options with which Pillow writes what a format holds of the metadata."""
    options: dict[str, Any] = {
        "exif": metadata.exif,
        "icc_profile": metadata.icc_profile,
        "xmp": metadata.xmp,
        "dpi": metadata.dpi,
        "comment": metadata.text.get("Comment"),
    }
    if format == "PNG":
        options["pnginfo"] = _png_texts(metadata)
    return {name: value for name, value in options.items() if value is not None}


def _png_texts(metadata: Metadata) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    for key, value in metadata.text.items():
        texts.add_itxt(key, value)
    if metadata.xmp:
        texts.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    return texts


__all__ = ["Metadata", "read_metadata", "read_orientation", "save_options"]
