"""Reading parts of picture files: no more is decoded than a patch needs, where the format allows it.

Pillow, OpenCV and torchvision decode whole files only (Pillow's `draft` scales, it does not crop). But the rows of a
baseline JPEG stand in the file from top to bottom, so a header that states fewer rows makes every decoder stop early.
Progressive JPEG, PNG, WebP, AVIF, BMP and TIFF are decoded whole.
"""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import datasets
import numpy as np
import PIL.Image

from .transforms import Window, crop

# Some 350 megapixels: a thousand photographs of 0.35 megapixel, as a small training set has. To decode one from AVIF
# takes seven times as long as to draw a patch from it, so that each should be decoded once.
CACHE_BYTES = 2**30
# Rows that JPEG codes together at 4:2:0. Those just below a window lend its last row their colours.
JPEG_ROWS = 16
START_OF_SCAN, START_OF_BASELINE_FRAME = 0xDA, (0xC0, 0xC1)
# Markers that carry no length, so that a header cannot be walked past them.
BARE_MARKERS = (0x01, *range(0xD0, 0xDA), 0xFF)


class Frame(NamedTuple):
    """Where a baseline JPEG states its height.

    Attributes:
        offset: of the two bytes of the height in the file.
        height: rows.
    """

    offset: int
    height: int


def find_baseline_frame(content: bytes) -> Frame | None:
    """Find the frame header of a JPEG that stores its rows once, from top to bottom.

    Args:
        content: the file.

    Returns:
        The frame, or None for another format, a progressive file, or one that stores its channels one after another.
    """
    if content[:2] != b"\xff\xd8":
        return None
    position, frame, components = 2, None, 0
    while position + 9 < len(content) and content[position] == 0xFF and content[position + 1] not in BARE_MARKERS:
        marker = content[position + 1]
        if marker in START_OF_BASELINE_FRAME:
            frame = Frame(position + 5, int.from_bytes(content[position + 5 : position + 7], "big"))
            components = content[position + 9]
        if marker == START_OF_SCAN:
            return frame if content[position + 4] == components else None
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None


def keep_upper_rows(content: bytes, rows: int) -> bytes:
    """Shorten a baseline JPEG so that decoders stop early; the rows that remain are decoded to the same values.

    Args:
        content: the file.
        rows: how many are wanted, from the top.

    Returns:
        A file of at least `rows` rows, or `content` itself where nothing can be saved.
    """
    frame = find_baseline_frame(content)
    kept = (-(-rows // JPEG_ROWS) + 1) * JPEG_ROWS
    if frame is None or frame.height <= kept:
        return content
    return content[: frame.offset] + kept.to_bytes(2, "big") + content[frame.offset + 2 :]


class Picture:
    """One picture of a dataset, decoded as far as it is read.

    Args:
        content: the file.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._pixels: np.ndarray | None = None
        with PIL.Image.open(BytesIO(content)) as image:
            self.width, self.height = image.size
            is_turned = image.getexif().get(PIL.Image.ExifTags.Base.Orientation, 1) != 1
        if is_turned:
            # The rows of the file are not those of the picture.
            self.keep()
            self.height, self.width = self._pixels.shape[:2]

    def keep(self) -> None:
        """Decode everything, and keep that in place of the file."""
        self._pixels = np.asarray(_decode(self._content))
        self._content = b""

    def read(self, window: Window) -> np.ndarray:
        """Decode a part, to the values that `datasets.Image(mode="RGB")` gives.

        Args:
            window: the rectangle.

        Returns:
            (window.height, window.width, 3) uint8, RGB, not to be written to.
        """
        if self._pixels is not None:
            return crop(self._pixels, window)
        bottom, right = window.top + window.height, window.left + window.width
        # Pillow cuts first, because handing pixels over to NumPy costs a copy of all of them.
        return np.asarray(
            _decode(keep_upper_rows(self._content, bottom)).crop((window.left, window.top, right, bottom))
        )


def _decode(content: bytes) -> PIL.Image.Image:
    return datasets.Image(mode="RGB").decode_example({"bytes": content, "path": None})


class ShrunkPicture:
    """A picture made smaller, of which parts are read.

    Args:
        picture: as stored.
        height: rows of the smaller one.
        width: columns of the smaller one.
    """

    def __init__(self, picture: Picture, height: int, width: int) -> None:
        whole = picture.read(Window(0, 0, picture.height, picture.width))
        self._pixels = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        self.height, self.width = height, width

    def read(self, window: Window) -> np.ndarray:
        """Cut a rectangle out, (window.height, window.width, 3) uint8, RGB."""
        return crop(self._pixels, window)


def shrink(
    picture: Picture, scales: tuple[float, float], patch_size: int, rng: np.random.Generator
) -> Picture | ShrunkPicture:
    """Make a picture smaller by a random factor, but not smaller than a patch.

    Args:
        picture: as stored.
        scales: range of the factor.
        patch_size: side of the patch, pixels.
        rng: source of randomness; one number is drawn, none if the range is one number.
    """
    scale = scales[0]
    if scale < scales[1]:
        scale = float(np.exp(rng.uniform(*np.log(scales))))
    scale = max(scale, patch_size / min(picture.height, picture.width))
    if scale >= 1:
        return picture
    return ShrunkPicture(picture, round(scale * picture.height), round(scale * picture.width))


class Memory:
    """How much may still be kept decoded; several columns may share one.

    Args:
        max_bytes: bound of the decoded pictures, in each worker process.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.free_bytes = max_bytes

    def take(self, size: int) -> bool:
        """Take some bytes if so many are left, and say whether they were."""
        is_enough = size <= self.free_bytes
        self.free_bytes -= size * is_enough
        return is_enough


class Pictures:
    """Random access to a column of pictures, as many of them kept decoded as the memory holds.

    Decoding costs more than cutting out and degrading a patch. Nothing is evicted: training visits each picture once
    an epoch in a new order, so recency says nothing about the next visit, and keeping the first hits no less.

    Args:
        dataset: has the column.
        column: of `datasets.Image`.
        memory: for decoded pictures.
    """

    def __init__(self, dataset: datasets.Dataset, column: str, memory: Memory) -> None:
        self._files = dataset.select_columns(column).cast_column(column, datasets.Image(decode=False))
        self._column = column
        self._memory = memory
        self._kept: dict[int, Picture] = {}

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._files)

    def __getitem__(self, index: int) -> Picture:
        """Open a picture, or find it decoded.

        Args:
            index: position in the dataset.
        """
        if index in self._kept:
            return self._kept[index]
        stored = self._files[index][self._column]
        if stored is None:
            raise ValueError(
                f"`dataset` must have a picture in column {self._column!r}, got none at index {index}; "
                "degrade clean photographs by a recipe"
            )
        picture = Picture(Path(stored["path"]).read_bytes() if stored["bytes"] is None else stored["bytes"])
        if self._memory.take(3 * picture.height * picture.width):
            picture.keep()
            self._kept[index] = picture
        return picture
