"""A picture with everything that its file says and that must survive restoration; and the values of arrays."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .picture_errors_dpmambair import PictureError
from .picture_metadata_dpmambair import Metadata


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with everything that its file says and that must survive restoration.

    Attributes:
        pixels: (3, H, W) float32, RGB in [0, 1], upright; of a grey picture three times the same.
        alpha: opacity, (H, W) float32 in [0, 1], or None.
        is_grey: whether its file has one channel of colour.
        bit_depth: of its channels, 8 or 16.
        format: Pillow's name of its file's format; None if it was no file.
        is_lossy: whether its file was one of WebP's that lose detail, as WebP has both kinds.
        metadata: EXIF, colour profile, XMP, resolution and text.
        duration: how long it is shown as a frame of an animation, milliseconds.
        later: the frames after this one, of an animation.
    """

    pixels: torch.Tensor = field(repr=False)
    alpha: torch.Tensor | None = field(default=None, repr=False)
    is_grey: bool = False
    bit_depth: int = 8
    format: str | None = None
    is_lossy: bool = False
    metadata: Metadata = field(default_factory=Metadata)
    duration: float = 0
    later: tuple[Self, ...] = field(default=(), repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[2], self.pixels.shape[1]

    @property
    def frames(self) -> tuple[Self, ...]:
        """All frames, each a picture of its own."""
        return (replace(self, later=()), *self.later)

    @property
    def image(self) -> Image.Image:
        """The picture in 8 bits, for showing: mode L, LA, RGB or RGBA, with the colour profile in its `info`.

        Raises:
            ValueError: an animation.
        """
        levels = self.check_still().levels(8)
        shown = Image.fromarray(levels if levels.shape[2] > 1 else levels[..., 0])
        if self.metadata.icc_profile is not None:
            shown.info["icc_profile"] = self.metadata.icc_profile
        return shown

    def check_still(self) -> Self:
        """Return the picture; a `ValueError` says that it is an animation."""
        if self.later:
            raise PictureError(f"`image` must have one frame, got {len(self.frames)}; extract the frame to restore")
        return self

    def levels(self, bit_depth: int) -> np.ndarray:
        """Return the values rounded to levels, (H, W, C), uint8 or uint16: grey or RGB, then alpha if there is any."""
        planes = [*(self.pixels[:1] if self.is_grey else self.pixels), *([] if self.alpha is None else [self.alpha])]
        levels = np.empty((*self.pixels.shape[1:], len(planes)), np.uint8 if bit_depth == 8 else np.uint16)
        for channel, plane in enumerate(planes):
            levels[..., channel] = plane.mul(2**bit_depth - 1).round_().numpy()
        return levels

    def fill_hidden(self) -> torch.Tensor:
        """Return the pixels, (3, H, W), those that are wholly transparent filled with the colours around them.

        What such a pixel holds is arbitrary, often black, and would bleed into the visible ones beside it: the network
        looks around. Each is filled with the mean of the visible pixels in the smallest block, of 2 x 2, 4 x 4 and so
        on, that has any.
        """
        if self.alpha is None or not (self.alpha == 0).any():
            return self.pixels
        seen = (self.alpha > 0).float()[None]
        return _fill(self.pixels * seen, seen)

    def with_pixels(self, restored: torch.Tensor) -> Self:
        """Return the picture restored: a grey one stays grey, and what is wholly transparent stays as it was.

        Args:
            restored: (3, H, W), RGB, any float dtype and device; clamped to [0, 1] here, float32 on the CPU in place.
        """
        restored = restored.detach().float().cpu()
        if self.is_grey or (torch.equal(*self.pixels[:2]) and torch.equal(*self.pixels[1:])):
            restored = restored.mean(0, keepdim=True).clamp_(0, 1).expand(3, -1, -1)
        else:
            restored = restored.clamp_(0, 1)  # another copy of a large picture would take as much as a tile
        if self.alpha is not None:
            restored = torch.where(self.alpha > 0, restored, self.pixels)
        return replace(self, pixels=restored)


def _fill(colours: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Divide colours, (3, H, W), by weights, (1, H, W), and take from ever larger blocks what has no weight."""
    mean = colours / weights.clamp(min=torch.finfo(torch.float32).tiny)
    if (weights > 0).all() or weights.numel() == 1:
        return mean
    halves = (F.avg_pool2d(each[None], 2, ceil_mode=True)[0] for each in (colours, weights))
    coarse = _fill(*halves)
    height, width = colours.shape[1:]
    return torch.where(weights > 0, mean, coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width])


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


__all__ = ["Picture", "check_layout", "read_values"]
