"""A corpus of some thousands of pictures that nobody sends in good faith, all made here and all small.

Each is a name and what makes its file. What every door must do with each: restore it, or refuse it in one line that
names it; within seconds; and leave nothing behind but whole files.
"""

import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile

from tests.dpmambair.hostile import encoded, giant_files, mistaken_files
from tests.odd_pictures import ANIMATIONS, ODD_PICTURES, REFUSED, chunk

SUFFIXES = {
    "AVIF": ".avif", "BMP": ".bmp", "GIF": ".gif", "HEIF": ".heic", "JPEG": ".jpg", "JPEG2000": ".jp2",
    "PNG": ".png", "PPM": ".ppm", "TIFF": ".tif", "WEBP": ".webp",
}  # fmt: skip
# Points at which the file of each format ends, and seeds of its flipped bits.
CUTS, FLIPS = 48, 48
# The same for each odd picture, of which there are many.
ODD_CUTS, ODD_FLIPS = 5, 5
# Every legal file name is one that somebody has.
NAMES = [
    b"two\nlines.png", b"\x1b[31mred\x1b[0m.png", b"\xff\xfe.png", "schön \U0001f5bc.png".encode(), b"-o.png",
    b"--help.png", b"%s %d {0}.png", b"$(touch pwned).png", b"a'b\"c.png", b" a b .png", b"..png",
    b"a" * 251 + b".png",
    "é".encode() * 125 + b".png", b"CON.png", b"a\tb\rc.png", b"*.png", b"~.png", b"a.PNG", b"a.png.png",
    b"\xe2\x80\xae.png",
]  # fmt: skip

Maker = Callable[[Path], object]


def hostile_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of all that are ordinary files."""
    for format, suffix in SUFFIXES.items():
        content = encoded(format)
        yield from _spoiled(f"plain {format}", suffix, content, CUTS, FLIPS)
        for other in SUFFIXES.values():
            yield f"{format} called{other}", content
    for odd in (*ODD_PICTURES, *ANIMATIONS):
        yield from _spoiled(f"odd {odd}".replace("/", "-"), odd.suffix, odd.content, ODD_CUTS, ODD_FLIPS)
    for kind, files in (("mistaken", mistaken_files()), ("giant", giant_files())):
        for name, content in files:
            yield f"{kind} {name}.png", content
    for refused in REFUSED:
        yield f"refused {refused}".replace("/", "-") + refused.suffix, refused.content
    yield from _endless_animations()
    for value in (np.nan, np.inf, -np.inf, 1e300, -1.0):
        for width in ("f4", "f8"):
            yield f"float {value} {width}.tif", _float_tiff(value, width)


def _spoiled(name: str, suffix: str, content: bytes, cuts: int, flips: int) -> Iterator[tuple[str, bytes]]:
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    for point in range(cuts):
        yield f"{name} cut {point}{suffix}", content[: len(content) * point // cuts]
    for seed in range(flips):
        yield f"{name} flipped {seed}{suffix}", _flip(content, seed)


def _flip(content: bytes, seed: int) -> bytes:
    """Flip some bits, of every second file near its beginning, where what it declares stands."""
    rng = np.random.default_rng(seed)
    flipped = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(0, len(content) if seed % 2 else min(len(content), 96), 1 + seed % 12)
    flipped[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return flipped.tobytes()


def _endless_animations() -> Iterator[tuple[str, bytes]]:
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame = b"\x21\xf9\x04\0\x0a\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    for frames in (5_000, 30_000):
        yield f"endless {frames} of one pixel.gif", head + frame * frames + b";"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0\0"))
    for frames in (2**31 - 1, 100_000, 0):
        counted = chunk(b"acTL", struct.pack(">II", frames, 0))
        first = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0))
        content = b"\x89PNG\r\n\x1a\n" + header + counted + first + data + chunk(b"IEND", b"")
        yield f"endless declared {frames}.png", content


def _float_tiff(value: float, width: str) -> bytes:
    with np.errstate(over="ignore"):
        levels = np.full((8, 9, 3), 0.5).astype(width)
        levels[3, 3] = np.array(value).astype(width)
    from io import BytesIO

    stream = BytesIO()
    tifffile.imwrite(stream, levels, photometric="rgb")
    return stream.getvalue()


def make_special_files(folder: Path) -> list[str]:
    """Make what is no ordinary file, and ordinary ones of extraordinary names; return their names."""
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "full.jpg").symlink_to("/dev/full")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "nowhere.png").symlink_to("absent.png")
    (folder / "folder.png").mkdir()
    (folder / "up").symlink_to(".")
    (folder / "round").symlink_to("up")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # the name of a socket must be short
        listener.bind("socket.png")
        os.chdir(here)
    for name in NAMES:
        (folder / os.fsdecode(name)).write_bytes(encoded("PNG"))
    return ["pipe.png", "zero.png", "full.jpg", "itself.png", "nowhere.png", "socket.png"]


def write_corpus(folder: Path, stride: int) -> list[Path]:
    """Write every so-many-th picture into a folder, and return all of them, sorted."""
    folder.mkdir(parents=True)
    for name, content in list(hostile_pictures())[::stride]:
        (folder / name).write_bytes(content)
    return sorted(path for path in folder.iterdir())
