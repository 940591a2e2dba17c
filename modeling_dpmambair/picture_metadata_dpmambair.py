"""What a picture's file says beside its pixels: EXIF, colour profile, XMP, resolution and text, in and out.

EXIF data are kept as they are, byte for byte, so that what only the camera's maker understands stays intact. Changed
are the orientation, which is applied to the pixels, and the picture's size; the thumbnail, which shows the degraded
picture, is cut off. Of a TIFF file, whose tags describe pixels and picture alike, new EXIF data are made.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION, WIDTH, HEIGHT = 274, 40962, 40963
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, XMP, ICC_PROFILE = 282, 283, 296, 700, 34675
DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# Tags of a TIFF file that do not describe the picture, but how its pixels are stored, or copies of it; and those that
# stand apart in `Metadata`.
STORAGE_TAGS = frozenset(
    [*range(254, 267), 273, 277, 278, 279, *range(284, 286), *range(288, 294), 297, 301, *range(317, 334)]
    + [*range(336, 348), 351, *range(512, 533), XMP, 34377, ICC_PROFILE, 37724, 50341, *DIRECTORIES]
)
XMP_ORIENTATION = re.compile(rb'(tiff:Orientation\s*=\s*["\'])[2-8]|(<tiff:Orientation>\s*)[2-8]')
XMP_KEY = "XML:com.adobe.xmp"
# A segment of a JPEG file holds no more.
JPEG_SEGMENT = 65_500


@dataclass(frozen=True)
class Metadata:
    """What a picture's file says beside its pixels, true of the upright picture.

    Attributes:
        exif: EXIF data as JPEG files hold them.
        icc_profile: what the values of the pixels mean.
        xmp: an XMP packet.
        dpi: pixels per inch, horizontally and vertically.
        text: texts by their keywords; of a format without keywords by `Comment`.
        loop: how often an animation is shown, 0 for ever, None if the file does not say.
        has_default: whether an animation's first frame is not part of it, but for programs that show no animation.
    """

    exif: bytes | None = field(default=None, repr=False)
    icc_profile: bytes | None = field(default=None, repr=False)
    xmp: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    loop: int | None = None
    has_default: bool = False


def read_orientation(exif: Image.Exif) -> int:
    """Return the orientation that EXIF data tell, 2 to 8; 1 where they say upright or nothing that has sense."""
    found = exif.get(ORIENTATION)
    return found if found in range(2, 9) else 1


def read_exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF tags of an opened picture, of a TIFF file all its tags; none where they are damaged."""
    try:
        return image.getexif()
    except Exception:  # Pillow raises half a dozen unrelated types, and the pixels do not suffer
        return Image.Exif()


def read_metadata(image: Image.Image, exif: Image.Exif, size: tuple[int, int], is_grey: bool) -> Metadata:
    """Collect the metadata of a picture that is no TIFF file.

    Args:
        image: as Pillow opened it.
        exif: its EXIF tags.
        size: width and height when upright.
        is_grey: whether its pixels were taken as grey; a profile of other colours than the pixels' is left out.
    """
    info = image.info
    xmp = info.get("xmp") or info.get(XMP_KEY)
    return Metadata(
        exif=correct_exif(info["exif"], size) if info.get("exif") else _rebuild_exif(exif, size),
        icc_profile=_check_profile(info.get("icc_profile"), is_grey),
        xmp=_correct_xmp(xmp.encode() if isinstance(xmp, str) else xmp),
        dpi=info.get("dpi"),
        text=_read_text(image),
        loop=info.get("loop"),
        has_default=bool(info.get("default_image")),
    )


def read_tiff_metadata(tags: Image.Exif, size: tuple[int, int], is_grey: bool) -> Metadata:
    """Collect the metadata of a TIFF file from all its tags; the rest is as in `read_metadata`."""
    return Metadata(
        exif=_rebuild_exif(tags, size),
        icc_profile=_check_profile(tags.get(ICC_PROFILE), is_grey),
        xmp=_correct_xmp(tags.get(XMP)),
        dpi=_read_resolution(tags),
    )


def _check_profile(profile: Any, is_grey: bool) -> bytes | None:
    is_right = isinstance(profile, bytes) and profile[16:20] == (b"GRAY" if is_grey else b"RGB ")
    return profile if is_right else None


def _correct_xmp(packet: Any) -> bytes | None:
    return XMP_ORIENTATION.sub(rb"\g<1>\g<2>1", packet) if isinstance(packet, bytes) else None


def correct_exif(content: bytes, size: tuple[int, int]) -> bytes | None:
    """Return EXIF data that are true of the upright picture, nothing else changed; None where they are damaged.

    Args:
        content: the data, with the prefix of JPEG files or without.
        size: width and height of the upright picture.
    """
    data = bytearray(content.removeprefix(EXIF_PREFIX))
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    try:
        main = struct.unpack_from(f"{order}I", data, 4)[0]
        entries = _find_entries(data, order, main)
        if ORIENTATION in entries:
            struct.pack_into(f"{order}HIHH", data, entries[ORIENTATION] + 2, 3, 1, 1, 0)
        if (inner := entries.get(ExifTags.IFD.Exif)) is not None:
            inside = _find_entries(data, order, struct.unpack_from(f"{order}I", data, inner + 8)[0])
            for tag, value in zip((WIDTH, HEIGHT), size, strict=True):
                if tag in inside:
                    struct.pack_into(f"{order}HII", data, inside[tag] + 2, 4, 1, value)
        _cut_thumbnail(data, order, main)
    except struct.error:
        return None
    return EXIF_PREFIX + bytes(data)


def _find_entries(data: bytes, order: str | None, start: int) -> dict[int, int]:
    """Return the places of a directory's entries by their tags."""
    (count,) = struct.unpack_from(f"{order}H", data, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    return {struct.unpack_from(f"{order}H", data, place)[0]: place for place in places}


def _cut_thumbnail(data: bytearray, order: str | None, main: int) -> None:
    """Unlink the directory of the thumbnail, and remove it where it ends the data, as it does in cameras' files."""
    (count,) = struct.unpack_from(f"{order}H", data, main)
    link = main + 2 + 12 * count
    (second,) = struct.unpack_from(f"{order}I", data, link)
    struct.pack_into(f"{order}I", data, link, 0)
    if second:
        entries = _find_entries(data, order, second)
        if 513 in entries and 514 in entries:
            start, length = (struct.unpack_from(f"{order}I", data, entries[tag] + 8)[0] for tag in (513, 514))
            if start > second and start + length >= len(data):
                del data[start:]


def _rebuild_exif(tags: Image.Exif, size: tuple[int, int]) -> bytes | None:
    exif = Image.Exif()
    try:
        for tag in set(tags) - STORAGE_TAGS - {ORIENTATION}:
            exif[tag] = tags[tag]
        for directory, found in _find_directories(tags).items():
            exif[directory] = found
        return correct_exif(exif.tobytes(), size) if len(exif) else None
    except Exception:  # values that their types do not hold, which Pillow meets only when it writes them
        return None


def _find_directories(exif: Image.Exif) -> dict[int, dict[int, Any]]:
    """Return the directories within EXIF data, without their links to others, which no longer lead anywhere."""
    found = {directory: exif.get_ifd(directory) for directory in DIRECTORIES if directory in exif}
    links = {ExifTags.IFD.Interop}
    return {name: {k: v for k, v in inner.items() if k not in links} for name, inner in found.items() if inner}


def _read_resolution(tags: Image.Exif) -> tuple[float, float] | None:
    factor = {2: 1, 3: 2.54}.get(tags.get(RESOLUTION_UNIT, 2))
    found = tags.get(X_RESOLUTION), tags.get(Y_RESOLUTION)
    if factor is None or not all(isinstance(each, int | float | IFDRational) and each > 0 for each in found):
        return None
    return tuple(float(each) * factor for each in found)


def _read_text(image: Image.Image) -> dict[str, str]:
    if image.format == "PNG":
        texts = getattr(image, "text", {})
        return {key: str(texts[key]) for key in texts if key != XMP_KEY and not key.startswith("Raw profile type")}
    comment = image.info.get("comment")
    return {"Comment": comment.decode("utf-8", "replace")} if isinstance(comment, bytes) else {}


def save_options(metadata: Metadata, format: str) -> dict[str, Any]:
    """Return the options with which Pillow writes what a format holds of the metadata."""
    options: dict[str, Any] = {name: getattr(metadata, name) for name in ("exif", "icc_profile", "xmp", "dpi")}
    if (comment := metadata.text.get("Comment")) and format != "PNG":
        options["comment"] = comment.encode()
    if format == "JPEG":
        segments = ("exif", "xmp", "comment")
        options = {k: v for k, v in options.items() if k not in segments or len(v or b"") <= JPEG_SEGMENT}
    if format == "PNG":
        options["pnginfo"] = _png_texts(metadata)
    return {name: value for name, value in options.items() if value is not None}


def _png_texts(metadata: Metadata) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    for key, value in metadata.text.items():
        texts.add_text(key, value)
    if metadata.xmp is not None:
        texts.add_itxt(XMP_KEY, metadata.xmp.decode("utf-8", "replace"))
    return texts


def tiff_tags(metadata: Metadata) -> dict[int, Any]:
    """Return the metadata as tags of a TIFF file."""
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(metadata.exif)
    tags = {tag: exif[tag] for tag in set(exif) - STORAGE_TAGS - {ORIENTATION}}
    tags |= _find_directories(exif)
    if metadata.dpi is not None:
        tags |= {X_RESOLUTION: metadata.dpi[0], Y_RESOLUTION: metadata.dpi[1], RESOLUTION_UNIT: 2}
    tags |= {ICC_PROFILE: metadata.icc_profile, XMP: metadata.xmp}
    return {tag: value for tag, value in tags.items() if value is not None}


__all__ = [
    "Metadata",
    "correct_exif",
    "read_exif",
    "read_metadata",
    "read_orientation",
    "read_tiff_metadata",
    "save_options",
    "tiff_tags",
]
