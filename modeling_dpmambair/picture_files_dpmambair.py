"""The one reader and the one writer of pictures: whatever holds a photograph becomes a `Picture`, and back.

| given | becomes |
|---|---|
| a file, as path, content or open file | its picture, if it is one of `FORMATS` |
| a multi-picture JPEG of a phone or camera | its first picture; previews and depth maps follow |
| EXIF orientation | applied |
| grey | grey: its three channels stay equal, and one is written |
| palette, CMYK | RGB |
| 16 bits a channel | 16 bits; floats hold them exactly |
| transparency | `alpha` |
| EXIF, ICC profile, XMP, resolution, text | `metadata` |
| array | taken as it is, if it is uint8, or floating point in [0, 1] |
"""

import os
import stat
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .picture_levels_dpmambair import read_levels
from .picture_metadata_dpmambair import Metadata, read_metadata, read_orientation, save_options

try:
    import imagecodecs
except ImportError:
    imagecodecs = None

# A closed list, because Pillow also opens formats that run other programs (EPS) or hold no photographs (PDF, WMF).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Of PNG files: for photographs Pillow's own level, 6, takes much longer and saves little.
PNG_LEVEL = 4
DEFAULT_QUALITY = 95


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with everything that its file says and that must survive restoration.

    Attributes:
        pixels: (3, H, W) float32, RGB in [0, 1], upright; of a grey picture three times the same.
        alpha: opacity, (H, W) float32 in [0, 1], or None.
        is_grey: whether its file has one channel of colour.
        bit_depth: of its channels, 8 or 16.
        format: Pillow's name of the file's format; None for an array.
        metadata: EXIF, colour profile, XMP, resolution and text.
    """

    pixels: torch.Tensor = field(repr=False)
    alpha: torch.Tensor | None = field(default=None, repr=False)
    is_grey: bool = False
    bit_depth: int = 8
    format: str | None = None
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[2], self.pixels.shape[1]

    @property
    def image(self) -> Image.Image:
        """An 8-bit picture for showing: mode L, LA, RGB or RGBA, with the colour profile in its `info`."""
        shown = Image.fromarray(self.levels(8).squeeze(2) if self._channels == 1 else self.levels(8))
        if self.metadata.icc_profile:
            shown.info["icc_profile"] = self.metadata.icc_profile
        return shown

    @property
    def _channels(self) -> int:
        return (1 if self.is_grey else 3) + (self.alpha is not None)

    def levels(self, bit_depth: int) -> np.ndarray:
        """Return the values rounded to levels, (H, W, C), uint8 or uint16: grey or RGB, then alpha if there is any."""
        planes = [self.pixels[:1] if self.is_grey else self.pixels]
        planes += [] if self.alpha is None else [self.alpha[None]]
        levels = np.empty((*self.pixels.shape[1:], self._channels), np.uint8 if bit_depth == 8 else np.uint16)
        for channel, plane in enumerate(each for planes_ in planes for each in planes_):
            levels[..., channel] = plane.clamp(0, 1).mul_(2**bit_depth - 1).round_().numpy()
        return levels

    def with_pixels(self, pixels: torch.Tensor) -> Self:
        """Return the picture with other pixels, (3, H, W), any float dtype, clamped to [0, 1] here."""
        pixels = pixels.detach().float().cpu().clamp(0, 1)
        if self.is_grey:
            pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1)
        return replace(self, pixels=pixels)


PictureSource: TypeAlias = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray | Picture


def read_picture(source: PictureSource, max_pixels: int | None = None) -> Picture:
    """Read a picture.

    Args:
        source: local file by its path, its content, or opened; PIL picture of any mode; array (H, W, 3), RGB, uint8 or
            float in [0, 1]; or a picture that was read, which is returned.
        max_pixels: the largest area of a file's picture, told by its header before anything is decoded.

    Raises:
        TypeError: none of these.
        ValueError: an address, an array of another shape, an animation, pixel values without a known range, or more
            pixels than allowed.
        OSError: a file that is missing, damaged, no regular file or no picture.
        PIL.Image.DecompressionBombError: more pixels than Pillow's guard allows.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, Image.Image):
        return _from_image(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    return _read_file(source, max_pixels)


def _from_array(array: np.ndarray) -> Picture:
    values = read_values(check_layout(array)).permute(2, 0, 1)
    is_float = values.is_floating_point()
    return Picture(values.contiguous() if is_float else values / 255, bit_depth=16 if is_float else 8)


def check_layout(array: np.ndarray) -> np.ndarray:
    """Return an array that holds one picture, (H, W, 3); a `ValueError` says that it does not."""
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"`image` must be of shape (H, W, 3), got {array.shape}; give RGB, channels last")
    return array


def read_values(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return the values of pictures of any layout as a tensor: uint8 levels, or float32 in [0, 1].

    Raises:
        ValueError: another type, or values outside their range.
    """
    is_array = isinstance(array, np.ndarray)
    is_float = np.issubdtype(array.dtype, np.floating) if is_array else array.is_floating_point()
    if not is_float and str(array.dtype).removeprefix("torch.") != "uint8":
        raise ValueError(f"`image` must be uint8 or float, got {array.dtype}; convert it to one of them")
    if is_array:
        # A copy in order, because torch takes no negative strides, no other byte order and no read-only memory.
        array = torch.from_numpy(np.array(array, np.float32 if is_float else np.uint8, order="C"))
    if not is_float:
        return array
    low, high = (bound.item() for bound in array.detach().float().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"`image` must be in [0, 1] if it is float, got [{low}, {high}]; divide it by its range")
    return array.float()


def _read_file(source: str | os.PathLike | bytes | BinaryIO, max_pixels: int | None) -> Picture:
    if isinstance(source, str | os.PathLike):
        with open(_check_path(source), "rb") as stream:
            return _read_stream(stream, source, max_pixels)
    if isinstance(source, bytes):
        return _read_stream(BytesIO(source), "other content", max_pixels)
    if hasattr(source, "read"):
        return _read_stream(source, "other content", max_pixels)
    raise TypeError(f"`image` must be a file, a PIL picture or an array, got {type(source).__name__}; convert it")


def _check_path(path: str | os.PathLike) -> str | os.PathLike:
    """Refuse what is no regular file before it is opened: a pipe would wait for its writer for ever."""
    if "://" in os.fspath(path):
        raise ValueError(f"`image` must be a local file, got {path}; download it first")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"`image` must be a regular file, got {path}; copy its content into one")
    return path


def _read_stream(stream: BinaryIO, name: str | os.PathLike, max_pixels: int | None) -> Picture:
    try:
        image = Image.open(stream, formats=FORMATS)
        width, height = image.size
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except UnidentifiedImageError as error:
        rule = f"a picture in one of the formats {', '.join(FORMATS)}"
        raise UnidentifiedImageError(f"`image` must be {rule}, got {name}; convert it") from error
    except (OSError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:  # of damaged files Pillow's decoders raise half a dozen unrelated types
        raise _damage(error) from error
    if max_pixels is not None and width * height > max_pixels:
        raise ValueError(f"`image` must have at most {max_pixels} pixels, got {width} x {height}; make it smaller")
    if frames > 1:
        raise ValueError(f"`image` must have one frame, got {frames}; extract the frame to restore")
    return _from_image(image)


def _damage(error: Exception) -> OSError:
    return OSError(f"image file is damaged: {' '.join(str(error).split())}")


def _from_image(image: Image.Image) -> Picture:
    if image.mode in ("F",) or (image.mode == "I" and image.format != "PPM"):
        raise ValueError(f"`image` must have 8 or 16 bits per channel, got mode {image.mode}; convert it first")
    try:
        levels = read_levels(image)
        exif = image.getexif()
        levels = _turn(levels, read_orientation(exif))
        colours = 1 if levels.shape[2] < 3 else 3
        metadata = read_metadata(image.info, exif, levels.shape[1::-1], colours)
    except (OSError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        raise _damage(error) from error
    top = 255 if levels.dtype == np.uint8 else 65535
    planes = [_to_plane(levels[..., channel], top) for channel in range(levels.shape[2])]
    pixels = planes[0].expand(3, -1, -1) if colours == 1 else torch.stack(planes[:3])
    alpha = planes[-1] if levels.shape[2] in (2, 4) else None
    return Picture(pixels, alpha, colours == 1, 8 if top == 255 else 16, image.format, metadata)


def _to_plane(levels: np.ndarray, top: int) -> torch.Tensor:
    return torch.from_numpy(levels.astype(np.float32)) / top


def _turn(levels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn levels, (H, W, C), upright."""
    if orientation > 4:
        levels = levels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return levels[::rows, ::columns]


def write_picture(
    picture: Picture,
    target: str | os.PathLike | BinaryIO,
    format: str | None = None,
    quality: int | None = None,
    keep_metadata: bool = True,
) -> None:
    """Write a picture, with the depth, channels and metadata that the format holds.

    Args:
        picture: what to write.
        target: file to write, whole or not at all, by its path; or an open file.
        format: Pillow's name of a format; by default what the suffix of `target` says, or the picture's own.
        quality: 1 to 100, of formats that lose detail.
        keep_metadata: whether EXIF (with the place), XMP, resolution and text are written; a colour profile always is.

    Raises:
        ValueError: an unknown format.
        OSError: the file cannot be written.
    """
    format = format or _format_of(target) or picture.format or "PNG"
    metadata = picture.metadata if keep_metadata else Metadata(icc_profile=picture.metadata.icc_profile)
    content = BytesIO()
    if picture.bit_depth == 16 and format == "PNG":
        content.write(imagecodecs.png_encode(picture.levels(16), PNG_LEVEL))
    else:
        options: dict[str, Any] = save_options(metadata, format)
        options |= {"compress_level": PNG_LEVEL} if format == "PNG" else {"quality": quality or DEFAULT_QUALITY}
        picture.image.save(content, format, **options)
    if hasattr(target, "write"):
        target.write(content.getbuffer())
    else:
        Path(target).write_bytes(content.getbuffer())


def _format_of(target: str | os.PathLike | BinaryIO) -> str | None:
    if hasattr(target, "write"):
        return None
    suffix = Path(target).suffix.lower()
    if suffix not in Image.registered_extensions():
        raise ValueError(f"unknown file extension: {suffix}")
    return Image.registered_extensions()[suffix]


__all__ = ["FORMATS", "Picture", "PictureSource", "check_layout", "read_picture", "read_values", "write_picture"]
