"""Odd pictures: what people's files hold, made here, each with what any program must show of it.

What is expected is what went in, or what libraries other than the reader's show. Every door is held to the same table,
with strength 0, in the format that went in:

    @pytest.mark.parametrize("odd", [*ODD_PICTURES, *ANIMATIONS], ids=str)
    def test_...(odd):
        check_restored(odd, what_came_out_of(odd.content))
"""

import io
import re
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin
from skimage import data

pillow_heif.register_heif_opener()

HEIGHT, WIDTH = 13, 18
RNG = np.random.default_rng(17)
DURATIONS, LOOP = [80, 160, 80], 2
EXPOSURE = ExifTags.Base.ExposureTime
GPS = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (52.0, 30.0, 59.0)}
EVERYTHING = frozenset({"exif", "gps", "icc", "xmp", "dpi", "text"})
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d" dc:title="T"/></x:xmpmeta>'


@dataclass(frozen=True, eq=False)  # told apart by what it is, since pictures have no hash
class Odd:
    """An odd picture.

    Attributes:
        name: what is odd about it.
        suffix: of its file.
        content: of its file.
        levels: what it shows, upright: (H, W, C), uint8 or uint16; grey, grey and alpha, RGB, or RGB and alpha. Of an
            animation its frames, a list of them.
        tolerance: how far, in levels, libraries that decode it may be apart.
        is_lossless: whether its format can give back what it shows.
        keeps: what its file says that must be in the restored file: `exif`, `gps`, `icc`, `xmp`, `dpi`, `text`.
    """

    name: str
    suffix: str
    content: bytes = field(repr=False)
    levels: np.ndarray | Sequence[np.ndarray] = field(repr=False)
    tolerance: int = 0
    is_lossless: bool = True
    keeps: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name.replace(" ", "_")

    @property
    def frames(self) -> list[np.ndarray]:
        """All frames, of a still picture one."""
        return list(self.levels) if isinstance(self.levels, list) else [self.levels]

    @property
    def first(self) -> np.ndarray:
        return self.frames[0]

    @property
    def is_grey(self) -> bool:
        return self.first.shape[2] < 3

    @property
    def has_alpha(self) -> bool:
        return self.first.shape[2] in (2, 4)

    @property
    def bit_depth(self) -> int:
        return 8 * self.first.itemsize


@dataclass(frozen=True)
class Refused:
    """A file that is no picture to restore.

    Attributes:
        name: what it is.
        suffix: of its file.
        content: of its file.
        error: what is raised.
        message: a pattern of its text.
    """

    name: str
    suffix: str
    content: bytes = field(repr=False)
    error: type[Exception]
    message: str

    def __str__(self) -> str:
        return self.name.replace(" ", "_")


# Pictures to put into files


@cache
def photograph(channels: int = 3, bits: int = 8, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return part of a photograph with noise in its low bits, (H, W, C); alpha has hidden, half and opaque pixels."""
    rng = np.random.default_rng(channels)
    start = data.astronaut()[60 : 60 + height, 200 : 200 + width].astype(float) / 255
    start = start if channels > 2 else start @ np.array([0.299, 0.587, 0.114])[:, None]
    colours = (start + rng.normal(0, 0.05, start.shape)).clip(0, 1)
    alpha = rng.choice([0, 0.5, 1], (height, width, 1))
    values = colours if channels in (1, 3) else np.concatenate([colours, alpha], -1)
    return np.rint(values * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def encode(levels: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    """Return a file by Pillow."""
    image = levels if isinstance(levels, Image.Image) else Image.fromarray(levels.squeeze())
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def show(content: bytes, mode: str) -> np.ndarray:
    """Return what Pillow shows of a file, in a mode."""
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert(mode)
        return np.asarray(upright).reshape(upright.height, upright.width, -1)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(levels: np.ndarray, bits: int, kind: int, *chunks: bytes, is_interlaced: bool = False) -> bytes:
    """Return a PNG file, written by hand, because libraries write few of its kinds.

    Args:
        levels: (H, W, C), of as many bits.
        bits: of a channel.
        kind: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        chunks: to stand before the pixels.
        is_interlaced: in seven passes.
    """
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = []
    for top, left, down, right in passes if is_interlaced else [(0, 0, 1, 1)]:
        part = levels[top::down, left::right]
        rows += [b"\0" + pack_bits(row, bits) for row in part] if part.shape[1] else []
    height, width = levels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, is_interlaced)
    body = chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + body


def pack_bits(row: np.ndarray, bits: int) -> bytes:
    if bits >= 8:
        return row.astype(f">u{bits // 8}").tobytes()
    ones = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, -bits:]
    return np.packbits(ones.ravel()).tobytes()


def tiff(levels: np.ndarray, **options: object) -> bytes:
    """Return a TIFF file by tifffile."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, levels.squeeze(2) if levels.shape[2:] == (1,) else levels, metadata=None, **options)
    return stream.getvalue()


def patch_tiff(content: bytes, tag: int, value: int) -> bytes:
    """Return a TIFF file with another value of a tag of type SHORT."""
    stream = io.BytesIO(content)
    with tifffile.TiffFile(stream, mode="r+b") as file:
        file.pages.first.tags[tag].overwrite(value)
    return stream.getvalue()


def widen(levels: np.ndarray, bits: int) -> np.ndarray:
    """Return levels of some bits as levels of 8 or 16."""
    top = 255 if bits <= 8 else 65535
    return np.rint(levels * (top / (2**bits - 1))).astype(np.uint8 if bits <= 8 else np.uint16)


def exif(orientation: int | None = None, gps: bool = False, xmp: bytes | None = None) -> bytes:
    """Return EXIF data as cameras write them."""
    found = Image.Exif()
    found[ExifTags.Base.Make] = "Camera"
    found[ExifTags.Base.DateTime] = "2026:11:26 12:00:00"
    found[ExifTags.IFD.Exif] = {ExifTags.Base.ExposureTime: 0.01, ExifTags.Base.ExifImageWidth: WIDTH}
    if orientation is not None:
        found[ExifTags.Base.Orientation] = orientation
    if gps:
        found[ExifTags.IFD.GPSInfo] = GPS
    if xmp is not None:
        found[700] = xmp
    return found.tobytes()


@cache
def rgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def grey_profile() -> bytes:
    """Return an ICC profile of grey with gamma 2.2."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256))
    return icc_profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def ink_profile() -> bytes:
    """Return an ICC profile of CMYK whose inks are all grey: each takes a share of the paper's lightness L* = 100."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)  # cyan varies slowest
    lightness = 100 * np.prod(1 - corners * [0.5, 0.4, 0.2, 1], 1)
    grid = np.stack([lightness * 2.55, *[np.full(16, 128)] * 2], 1).round().astype(np.uint8).tobytes()
    ramp = bytes(range(256))
    identity = b"".join(struct.pack(">i", each * 65536) for each in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + grid + 3 * ramp
    return icc_profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def icc_profile(device: bytes, colours: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"a\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": white} | tags
    place, index, body = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        index += name + struct.pack(">II", place + len(body), len(value))
        body += value
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, device, colours, connection) + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body


def hide(levels: np.ndarray) -> np.ndarray:
    """Return levels with alpha that hides the colour of the first pixel."""
    alpha = np.where((levels == levels[0, 0]).all(2, keepdims=True), 0, np.iinfo(levels.dtype).max)
    return np.concatenate([levels, alpha.astype(levels.dtype)], 2)


def to_rgb(levels: np.ndarray) -> np.ndarray:
    return np.concatenate([levels[..., :1]] * 3 + [levels[..., 1:]], 2)


def associate(levels: np.ndarray) -> np.ndarray:
    """Return levels with their alpha multiplied into the colours."""
    top = np.iinfo(levels.dtype).max
    colours = np.rint(levels[..., :-1] * (levels[..., -1:] / top)).astype(levels.dtype)
    return np.concatenate([colours, levels[..., -1:]], 2)


def turned(levels: np.ndarray, orientation: int) -> np.ndarray:
    """Return how a picture lies in a file that says this orientation, which turns it upright."""
    lying = {
        1: levels, 2: levels[:, ::-1], 3: levels[::-1, ::-1], 4: levels[::-1], 5: levels.swapaxes(0, 1),
        6: np.rot90(levels), 7: np.rot90(levels, 2).swapaxes(0, 1), 8: np.rot90(levels, -1),
    }  # fmt: skip
    return np.ascontiguousarray(lying[orientation])


# The table


def png_pictures() -> list[Odd]:
    grey, la, rgb, rgba = (photograph(channels) for channels in (1, 2, 3, 4))
    deep = {channels: photograph(channels, 16) for channels in (1, 2, 3, 4)}
    palette = RNG.integers(0, 256, (16, 3), np.uint8)
    indices = RNG.integers(0, 16, (HEIGHT, WIDTH, 1), np.uint8)
    opacity = np.array([0, 80, *[255] * 14], np.uint8)
    plte, trns = chunk(b"PLTE", palette.tobytes()), chunk(b"tRNS", opacity.tobytes())
    coloured, opaque = palette[indices[..., 0]], opacity[indices]
    few = {bits: RNG.integers(0, 2**bits, (HEIGHT, WIDTH, 1), np.uint8) for bits in (1, 2, 4)}

    def key(levels: np.ndarray) -> bytes:
        return chunk(b"tRNS", levels[0, 0].astype(">u2").tobytes())

    said = PngImagePlugin.PngInfo()
    said.add_text("Title", "A title")
    said.add_itxt("XML:com.adobe.xmp", (XMP % 1).decode())
    everything = {"exif": exif(gps=True), "icc_profile": rgb_profile(), "dpi": (300, 300), "pnginfo": said}
    deep_said = [chunk(b"eXIf", exif(6, gps=True)[6:]), chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1))]
    deep_said += [chunk(b"iCCP", b"grey\0\0" + zlib.compress(grey_profile())), chunk(b"tEXt", b"Title\0A title")]
    pictures = [
        Odd("PNG grey", ".png", png(grey, 8, 0), grey),
        Odd("PNG grey and alpha", ".png", png(la, 8, 4), la),
        Odd("PNG RGB", ".png", png(rgb, 8, 2), rgb),
        Odd("PNG RGB and alpha", ".png", png(rgba, 8, 6), rgba),
        Odd("PNG RGB interlaced", ".png", png(rgb, 8, 2, is_interlaced=True), rgb),
        Odd("PNG palette", ".png", png(indices, 8, 3, plte), coloured),
        Odd("PNG palette of 4 bits", ".png", png(indices, 4, 3, plte), coloured),
        Odd("PNG palette with alpha", ".png", png(indices, 8, 3, plte, trns), np.concatenate([coloured, opaque], 2)),
        Odd("PNG grey with a transparent colour", ".png", png(grey, 8, 0, key(grey)), hide(grey)),
        Odd("PNG RGB with a transparent colour", ".png", png(rgb, 8, 2, key(rgb)), hide(rgb)),
        Odd("PNG grey of 16 bits with a transparent colour", ".png", png(deep[1], 16, 0, key(deep[1])), hide(deep[1])),
        Odd("PNG RGB of 16 bits with a transparent colour", ".png", png(deep[3], 16, 2, key(deep[3])), hide(deep[3])),
        Odd("PNG RGB of 16 bits interlaced", ".png", png(deep[3], 16, 2, is_interlaced=True), deep[3]),
        Odd("PNG with all metadata", ".png", encode(rgb, "PNG", **everything), rgb, keeps=EVERYTHING),
        Odd(
            "PNG grey of 16 bits with all metadata",
            ".png",
            png(turned(deep[1], 6), 16, 0, *deep_said),
            deep[1],
            keeps=EVERYTHING - {"xmp"},
        ),
        Odd("PNG of one pixel", ".png", png(rgb[:1, :1], 8, 2), rgb[:1, :1]),
        Odd("PNG of one row", ".png", png(rgb[:1], 8, 2), rgb[:1]),
    ]
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    names = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGB and alpha"}
    for count, kind in kinds.items():
        pictures.append(Odd(f"PNG {names[count]} of 16 bits", ".png", png(deep[count], 16, kind), deep[count]))
    for bits, levels in few.items():
        shown = widen(levels, bits)
        pictures.append(Odd(f"PNG grey of {bits} bits", ".png", png(levels, bits, 0), shown))
        keyed = png(levels, bits, 0, key(levels))
        pictures.append(Odd(f"PNG grey of {bits} bits with a transparent colour", ".png", keyed, hide(shown)))
    return pictures


def jpeg_pictures() -> list[Odd]:
    rgb = photograph(3, height=32, width=48)

    def jpeg(name: str, content: bytes, mode: str = "RGB", **options: object) -> Odd:
        return Odd(f"JPEG {name}", ".jpg", content, show(content, mode), is_lossless=False, **options)

    inks = np.zeros((32, 48, 4), np.uint8)
    inks[:, 16:32, 0], inks[:, 32:, 3] = 255, 255  # paper, cyan, black
    lightness = np.full((32, 48, 3), 255, np.uint8)
    lightness[:, 16:32], lightness[:, 32:] = 119, 0  # L* = 50 is 119 in sRGB
    cmyk = Image.fromarray(inks, "CMYK")
    said = {"exif": exif(1, gps=True), "icc_profile": rgb_profile(), "dpi": (300, 300), "comment": b"A title"}
    preview = Image.fromarray(rgb[:8, :8])
    managed = encode(cmyk, "JPEG", quality=100, icc_profile=ink_profile())
    return [
        jpeg("RGB", encode(rgb, "JPEG")),
        jpeg("progressive", encode(rgb, "JPEG", progressive=True)),
        jpeg("grey", encode(rgb[..., :1], "JPEG"), "L"),
        jpeg(
            "grey with its profile",
            encode(rgb[..., :1], "JPEG", icc_profile=grey_profile()),
            "L",
            keeps=frozenset({"icc"}),
        ),
        jpeg("RGB not YCbCr", encode(rgb, "JPEG", keep_rgb=True)),
        jpeg("CMYK", encode(cmyk, "JPEG", quality=100)),
        Odd("JPEG CMYK with its profile", ".jpg", managed, lightness, 2, is_lossless=False),
        jpeg("of several pictures", encode(Image.fromarray(rgb), "MPO", save_all=True, append_images=[preview])),
        jpeg("with all metadata", encode(rgb, "JPEG", xmp=XMP % 1, **said), keeps=EVERYTHING),
        *(
            jpeg(
                f"with orientation {each}",
                encode(rgb, "JPEG", exif=exif(each, gps=True)),
                keeps=frozenset({"exif", "gps"}),
            )
            for each in range(2, 9)
        ),
        jpeg("with orientation in XMP", encode(rgb, "JPEG", xmp=XMP % 8), keeps=frozenset({"xmp"})),
    ]


def tiff_pictures() -> list[Odd]:
    grey, la, rgb, rgba = (photograph(channels) for channels in (1, 2, 3, 4))
    deep = {channels: photograph(channels, 16) for channels in (1, 2, 3, 4)}
    few = {bits: photograph(1, bits) for bits in (1, 2, 4, 12)}
    ends = {"little": "<", "big": ">"}
    palette = RNG.integers(0, 256, (3, 256), np.uint16)
    indices = RNG.integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8)
    coloured = palette.T.astype(np.uint8)[indices[..., 0]]
    inks = RNG.choice(np.array([0, 255], np.uint8), (HEIGHT, WIDTH, 4))
    bw = few[1].astype(bool)

    def make(name: str, levels: np.ndarray, shown: np.ndarray, **options: object) -> Odd:
        return Odd(f"TIFF {name}", ".tif", tiff(levels, **options), shown)

    pictures = [
        make("grey", grey, grey),
        make("grey where 0 is white", ~grey, grey, photometric="miniswhite"),
        make("of 1 bit", bw, widen(few[1], 1), photometric="minisblack"),
        make("of 1 bit where 0 is white", ~bw, widen(few[1], 1), photometric="miniswhite"),
        make("grey and alpha", la, la, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]),
        make(
            "grey and alpha of 16 bits",
            deep[2],
            deep[2],
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=["unassalpha"],
        ),
        make("RGB", rgb, rgb, photometric="rgb"),
        make("RGB in planes", np.moveaxis(rgb, 2, 0), rgb, photometric="rgb", planarconfig="separate"),
        make(
            "RGB of 16 bits in planes", np.moveaxis(deep[3], 2, 0), deep[3], photometric="rgb", planarconfig="separate"
        ),
        make("RGB of 16 bits by LZW", deep[3], deep[3], photometric="rgb", compression="lzw", predictor=True),
        make("RGB of 16 bits by Zstandard", deep[3], deep[3], photometric="rgb", compression="zstd"),
        make("RGB of 16 bits in tiles", deep[3], deep[3], photometric="rgb", tile=(16, 16)),
        make("RGB of 12 bits", photograph(3, 12), widen(photograph(3, 12), 12), photometric="rgb", bitspersample=12),
        make("RGB and alpha", rgba, rgba, photometric="rgb", extrasamples=["unassalpha"]),
        make("RGB and alpha of 16 bits", deep[4], deep[4], photometric="rgb", extrasamples=["unassalpha"]),
        make("RGB and something", rgba, rgb_of(rgba), photometric="rgb", extrasamples=["unspecified"]),
        make("palette", indices, coloured, photometric="palette", colormap=palette * 257),
        make("palette of 8 bits", indices, coloured, photometric="palette", colormap=palette),
        make("CMYK", inks, naive_rgb(inks), photometric="separated"),
        make("CMYK of 16 bits", inks.astype(np.uint16) * 257, naive_rgb(inks), photometric="separated"),
        make("BigTIFF", rgb, rgb, photometric="rgb", bigtiff=True),
    ]
    for bits in (2, 4, 12):
        pictures.append(make(f"grey of {bits} bits", few[bits], widen(few[bits], bits), bitspersample=bits))
    for name, order in ends.items():
        white = {"photometric": "miniswhite", "byteorder": order}
        pictures.append(make(f"grey of 16 bits, {name} end first", deep[1], deep[1], byteorder=order))
        pictures.append(make(f"grey of 16 bits where 0 is white, {name} end first", ~deep[1], deep[1], **white))
        pictures.append(
            make(f"RGB of 16 bits, {name} end first", deep[3], deep[3], photometric="rgb", byteorder=order)
        )
    return pictures + tiff_colours() + tiff_files()


def rgb_of(levels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(levels[..., :3])


def naive_rgb(inks: np.ndarray) -> np.ndarray:
    """Return the colours of inks that are there wholly or not at all."""
    return np.where((inks[..., :3] == 255) | (inks[..., 3:] == 255), 0, 255).astype(np.uint8)


def tiff_colours() -> list[Odd]:
    """Pictures whose samples are neither grey nor RGB, and premultiplied ones."""
    rgba, deep = photograph(4), photograph(4, 16)
    ycbcr = np.asarray(Image.fromarray(photograph(3)).convert("YCbCr"))
    by_pillow = np.asarray(Image.fromarray(ycbcr, "YCbCr").convert("RGB"))
    # Blocks of 2 x 2 pixels share their chroma.
    shared = ycbcr.copy()
    shared[..., 1:] = ycbcr[::2, ::2, 1:].repeat(2, 0).repeat(2, 1)[:HEIGHT, :WIDTH]
    shared_by_pillow = np.asarray(Image.fromarray(shared, "YCbCr").convert("RGB"))
    lightness = np.tile(np.array([0, 50, 100]), (HEIGHT, WIDTH // 3))[..., None]
    neutral = to_rgb(np.select([lightness == 0, lightness == 50], [0, 119], 255).astype(np.uint8))
    lab = np.concatenate([np.rint(lightness * 2.55), *[np.zeros((HEIGHT, WIDTH, 1))] * 2], 2).astype(np.uint8)
    deep_lab = np.concatenate([lightness * 65535 // 100, *[np.zeros((HEIGHT, WIDTH, 1))] * 2], 2).astype(np.uint16)
    inks = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 255 * (lightness[..., 0] == 50), 255 * (lightness[..., 0] == 0)
    profile = {"extratags": [(34675, 7, None, ink_profile(), True)]}
    big = photograph(3, height=32, width=48)
    jpeg = tiff(big, photometric="ycbcr", compression="jpeg")
    return [
        Odd(
            "TIFF RGB and associated alpha",
            ".tif",
            tiff(associate(rgba), photometric="rgb", extrasamples=["assocalpha"]),
            hidden_black(rgba),
            1,
        ),
        Odd(
            "TIFF RGB and associated alpha of 16 bits",
            ".tif",
            tiff(associate(deep), photometric="rgb", extrasamples=["assocalpha"]),
            hidden_black(deep),
            1,
        ),
        Odd("TIFF YCbCr", ".tif", tiff(ycbcr, photometric="ycbcr"), by_pillow, 1),
        Odd("TIFF YCbCr subsampled", ".tif", subsampled_tiff(shared, 1), shared_by_pillow, 1),
        Odd("TIFF YCbCr subsampled by deflate", ".tif", subsampled_tiff(shared, 8), shared_by_pillow, 2),
        Odd("TIFF YCbCr by JPEG", ".tif", jpeg, show(jpeg, "RGB"), 2),
        Odd("TIFF L*a*b*", ".tif", tiff(lab, photometric="cielab"), neutral, 1),
        Odd("TIFF L*a*b* of 16 bits", ".tif", tiff(deep_lab, photometric="cielab"), neutral, 1),
        Odd(
            "TIFF ICC L*a*b*", ".tif", tiff(lab ^ np.array([0, 128, 128], np.uint8), photometric="icclab"), neutral, 1
        ),
        Odd("TIFF CMYK with its profile", ".tif", tiff(inks, photometric="separated", **profile), neutral, 1),
    ]


def hidden_black(levels: np.ndarray) -> np.ndarray:
    """Return levels without the colours that associated alpha does not hold."""
    return np.where(levels[..., -1:] == 0, 0, levels)


def subsampled_tiff(ycbcr: np.ndarray, compression: int) -> bytes:
    """Return a TIFF file in which 2 x 2 pixels share their chroma; compression is 1 (none) or 8 (deflate)."""
    height, width = (each + each % 2 for each in ycbcr.shape[:2])
    padded = np.pad(ycbcr, ((0, height - len(ycbcr)), (0, width - ycbcr.shape[1]), (0, 0)), "edge")
    luma = padded[..., 0].reshape(height // 2, 2, width // 2, 2).swapaxes(1, 2).reshape(height // 2, width // 2, 4)
    data = np.concatenate([luma, padded[::2, ::2, 1:]], 2).tobytes()
    data = zlib.compress(data) if compression == 8 else data
    height, width = ycbcr.shape[:2]
    return raw_tiff(
        data, {256: width, 257: height, 258: (8, 8, 8), 259: compression, 262: 6, 277: 3, 278: height, 530: (2, 2)}
    )


def raw_tiff(data: bytes, tags: dict[int, int | tuple[int, ...]]) -> bytes:
    """Return a TIFF file of one strip, written by hand; all tags are of type SHORT."""
    tags = dict(sorted({273: 0, 279: len(data), **tags}.items()))
    place = 8 + 2 + 12 * len(tags) + 4
    index, beside = struct.pack("<H", len(tags)), b""
    for tag, value in tags.items():
        values = value if isinstance(value, tuple) else (value,)
        body = struct.pack(f"<{len(values)}H", *values)
        if len(body) > 4:
            body, beside = struct.pack("<I", place + len(beside)), beside + body
        index += struct.pack("<HHI", tag, 3, len(values)) + body.ljust(4, b"\0")
    content = b"II*\0" + struct.pack("<I", 8) + index + bytes(4) + beside
    at = 8 + 2 + 12 * list(tags).index(273) + 8
    return content[:at] + struct.pack("<I", len(content)) + content[at + 4 :] + data


def tiff_files() -> list[Odd]:
    """Pictures in files with more than pixels."""
    rgb, deep, bw = photograph(3), photograph(3, 16), photograph(1, 1)
    said = {"exif": exif(gps=True, xmp=XMP % 1), "icc_profile": rgb_profile(), "dpi": (300, 300)}
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(deep, photometric="rgb")
        file.write(rgb[::4, ::4], photometric="rgb", subfiletype=1)
        file.write(bw.squeeze(2).astype(bool), photometric="mask", subfiletype=4)
    fax = encode(Image.fromarray(bw.squeeze(2).astype(bool)), "TIFF", compression="group4")
    return [
        Odd("TIFF of 1 bit by CCITT", ".tif", fax, widen(bw, 1)),
        Odd("TIFF with a thumbnail and a mask", ".tif", stream.getvalue(), deep),
        Odd("TIFF with all metadata", ".tif", encode(rgb, "TIFF", **said), rgb, keeps=EVERYTHING - {"text"}),
        *(
            Odd(
                f"TIFF of 16 bits with orientation {each}", ".tif",
                tiff(turned(deep, each), photometric="rgb", extratags=[(274, 3, 1, each, True)]), deep,
            )
            for each in range(2, 9)
        ),
    ]  # fmt: skip


def other_pictures() -> list[Odd]:
    grey, la, rgb, rgba = (photograph(channels) for channels in (1, 2, 3, 4))
    deep, few = {channels: photograph(channels, 16) for channels in (1, 3, 4)}, photograph(1, 1)
    twelve = {channels: photograph(channels, 12) for channels in (1, 3)}
    palette = Image.fromarray(rgb).quantize(16)
    coloured = np.asarray(palette.convert("RGB"))

    def pnm(magic: str, levels: np.ndarray, highest: int) -> bytes:
        head = f"{magic} # made here\n{levels.shape[1]} {levels.shape[0]}\n{highest}\n".encode()
        if magic in ("P2", "P3"):
            return head + b"# a comment\n" + " ".join(map(str, levels.ravel())).encode() + b"\n"
        return head + levels.astype(">u2" if highest > 255 else np.uint8).tobytes()

    def lossy(name: str, suffix: str, content: bytes, mode: str = "RGB", **options: object) -> Odd:
        return Odd(name, suffix, content, show(content, mode), is_lossless=False, **options)

    jp2 = {"level": 0, "codecformat": "jp2", "reversible": True}
    said = {"exif": exif(gps=True), "icc_profile": rgb_profile(), "xmp": XMP % 1}
    all_but_dpi = EVERYTHING - {"dpi", "text"}
    return [
        Odd("BMP", ".bmp", encode(rgb, "BMP"), rgb),
        Odd("BMP palette", ".bmp", encode(palette, "BMP"), coloured),
        Odd("BMP grey", ".bmp", encode(grey, "BMP"), grey),
        Odd("PBM", ".pbm", encode(Image.fromarray(few.squeeze(2).astype(bool)), "PPM"), widen(few, 1)),
        Odd("PGM", ".pgm", pnm("P5", grey, 255), grey),
        Odd("PGM of 16 bits", ".pgm", pnm("P5", deep[1], 65535), deep[1]),
        Odd("PGM of 12 bits", ".pgm", pnm("P5", twelve[1], 4095), widen(twelve[1], 12)),
        Odd("PGM plain of 16 bits", ".pgm", pnm("P2", deep[1], 65535), deep[1]),
        Odd("PPM", ".ppm", pnm("P6", rgb, 255), rgb),
        Odd("PPM plain", ".ppm", pnm("P3", rgb, 255), rgb),
        Odd("PPM of 16 bits", ".ppm", pnm("P6", deep[3], 65535), deep[3]),
        Odd("PPM of 12 bits", ".ppm", pnm("P6", twelve[3], 4095), widen(twelve[3], 12)),
        Odd("PPM plain of 16 bits", ".ppm", pnm("P3", deep[3], 65535), deep[3]),
        Odd("GIF", ".gif", encode(palette, "GIF"), coloured),
        Odd("WebP", ".webp", encode(rgb, "WEBP", lossless=True), rgb),
        Odd("WebP with alpha", ".webp", encode(rgba, "WEBP", lossless=True, exact=True), rgba),
        Odd("WebP with all metadata", ".webp", encode(rgb, "WEBP", lossless=True, **said), rgb, keeps=all_but_dpi),
        Odd("JPEG 2000", ".jp2", encode(rgb, "JPEG2000"), rgb),
        Odd("JPEG 2000 grey and alpha", ".jp2", encode(la, "JPEG2000"), la),
        Odd("JPEG 2000 grey of 16 bits", ".jp2", imagecodecs.jpeg2k_encode(deep[1].squeeze(2), **jp2), deep[1]),
        Odd("JPEG 2000 of 16 bits", ".jp2", imagecodecs.jpeg2k_encode(deep[3], **jp2), deep[3]),
        Odd(
            "JPEG 2000 of 12 bits",
            ".jp2",
            imagecodecs.jpeg2k_encode(twelve[3], bitspersample=12, **jp2),
            widen(twelve[3], 12),
        ),
        lossy("AVIF", ".avif", encode(rgb, "AVIF")),
        lossy("AVIF with alpha", ".avif", encode(rgba, "AVIF"), "RGBA"),
        lossy("AVIF with all metadata", ".avif", encode(rgb, "AVIF", **said), keeps=all_but_dpi),
        lossy("HEIC", ".heic", encode(rgb, "HEIF")),
        lossy("HEIC with alpha", ".heic", encode(rgba, "HEIF"), "RGBA"),
        lossy("HEIC with all metadata", ".heic", encode(rgb, "HEIF", **said), keeps=all_but_dpi),
    ]


def animations() -> list[Odd]:
    """Animations of three frames, the middle one twice as long, shown twice."""
    times = {"save_all": True, "duration": DURATIONS, "loop": LOOP}
    rgb, rgba = (np.concatenate([photograph(count)] * 2) for count in (3, 4))
    rgb_frames, rgba_frames = ([each[shift : shift + HEIGHT] for shift in (0, 3, 7)] for each in (rgb, rgba))
    few = [np.asarray(Image.fromarray(each).quantize(16).convert("RGB")) for each in rgb_frames]

    def animate(name: str, format: str, frames: list[np.ndarray], **options: object) -> Odd:
        images = [Image.fromarray(each) for each in frames]
        content = encode(images[0], format, append_images=images[1:], **times, **options)
        return Odd(f"{name} animated", f".{format.lower()}", content, frames)

    return [
        animate("GIF", "GIF", few),
        animate("PNG", "PNG", rgb_frames),
        animate("PNG with alpha", "PNG", rgba_frames),
        animate("WebP", "WEBP", rgb_frames, lossless=True),
    ]


# What must not be restored


def frame_chunks(levels: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """Return the chunks that announce the first frame of an animated PNG file, and hold the second."""
    height, width = levels.shape[:2]
    first, second = (struct.pack(">5IHHBB", each, width, height, 0, 0, 1, 10, 0, 0) for each in (0, 1))
    rows = b"".join(b"\0" + pack_bits(row, 16) for row in levels)
    data = struct.pack(">I", 2) + zlib.compress(rows)
    return chunk(b"fcTL", first), chunk(b"fcTL", second), chunk(b"fdAT", data)


def refused_files() -> list[Refused]:
    rgb, deep = photograph(3), photograph(3, 16)
    formats = r"`image` must be a picture in one of the formats AVIF, .*, got .*; convert it"
    channels = "`image` must have 8 or 16 bits per channel, got "
    colours = r"`image` must be grey, RGB, palette, YCbCr, CMYK or L\*a\*b\*, got "
    pages = encode(rgb, "TIFF", save_all=True, append_images=[Image.fromarray(rgb)])
    floats = deep[..., 0].astype(np.float32)
    giant = encode(rgb, "JPEG")
    place = giant.index(b"\xff\xc0") + 5
    giant = giant[:place] + struct.pack(">HH", 10_000, 10_000) + giant[place + 4 :]
    bomb = png(rgb, 8, 2)
    bomb = bomb[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + bomb[33:]
    inks = np.zeros((HEIGHT, WIDTH, 5), np.uint8)

    def strange(name: str, content: bytes, message: str, suffix: str = ".tif") -> Refused:
        return Refused(name, suffix, content, ValueError, message)

    def damaged(name: str, content: bytes, suffix: str, message: str = ".") -> Refused:
        return Refused(name, suffix, content, OSError, message)

    whole = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "AVIF": ".avif", "JPEG2000": ".jp2"}
    whole |= {"BMP": ".bmp", "PPM": ".ppm"}
    halves = {format: encode(photograph(3, height=64, width=64), format) for format in whole}
    deep_png, deep_tiff = png(deep, 16, 2), tiff(deep, photometric="rgb")
    return [
        damaged("nothing", b"", ".png", formats),
        damaged("a text", b"Dear diary", ".jpg", formats),
        damaged("EPS", encode(rgb, "EPS"), ".png", formats),
        damaged("PDF", encode(rgb, "PDF"), ".png", formats),
        damaged("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", ".png", formats),
        damaged("PSD", b"8BPS\0\1" + bytes(64), ".png", formats),
        damaged("JPEG that declares far more than it holds", giant, ".jpg", "^image file is damaged: .* cannot hold"),
        Refused("PNG bomb", ".png", bomb, Image.DecompressionBombError, "decompression bomb"),
        strange("TIFF of several pages", pages, "`image` must have one page, got 2; split it into its pages"),
        strange("TIFF of floating point", tiff(floats[..., None]), channels),
        strange("TIFF of RGB of floating point", tiff(deep.astype(np.float32), photometric="rgb"), channels),
        strange("TIFF of half precision", tiff(deep.astype(np.float16), photometric="rgb"), channels),
        strange("TIFF of signed numbers", tiff(deep.astype(np.int16), photometric="rgb"), channels),
        strange("TIFF of 32 bits", tiff(deep.astype(np.uint32), photometric="rgb"), channels),
        strange("TIFF of raw sensor values", patch_tiff(tiff(deep[..., :1]), 262, 32803), f"{colours}CFA"),
        strange("TIFF of LogLuv", patch_tiff(tiff(rgb, photometric="rgb"), 262, 32845), f"{colours}LOGLUV"),
        strange("TIFF of a mask", tiff(rgb[..., :1] > 99, photometric="mask"), f"{colours}MASK"),
        strange(
            "TIFF of five inks",
            tiff(inks, photometric="separated", extratags=[(332, 3, 1, 2, True)]),
            "`image` must have all channels of its colours, or be CMYK, got 5 ",
        ),
        strange(
            "PNG animated of 16 bits",
            png(deep, 16, 2, chunk(b"acTL", struct.pack(">II", 2, 0)), *frame_chunks(deep)),
            "`image` must have 8 bits per channel if it is an animation, got 16; convert it first",
            ".png",
        ),
        strange("PFM", b"Pf\n2 2\n-1.0\n" + bytes(16), f"{channels}mode F", ".pfm"),
        *(damaged(f"half a {name} file", halves[name][: len(halves[name]) // 2], whole[name]) for name in whole),
        damaged("half a PNG file of 16 bits", deep_png[: len(deep_png) // 2], ".png"),
        damaged("half a TIFF file of 16 bits", deep_tiff[: len(deep_tiff) // 2], ".tif"),
    ]


# What must come out

# How far lossy formats may be off, in levels, over the whole picture; swapped colours and black are far beyond.
LOSS = 8


def check_restored(odd: Odd, content: bytes) -> None:
    """Check a file that was restored with strength 0 from an odd picture, in the format that it had.

    It shows the same pixels, at the same depth, with as many channels, lies upright, and says what the other one said.
    """
    found = read_frames(content) if len(odd.frames) > 1 else [read_levels(content)]
    assert len(found) == len(odd.frames)
    for levels, expected in zip(found, odd.frames, strict=True):
        if expected.shape[2] == 2 and levels.shape[2] == 4:  # OpenCV has no grey with alpha
            levels = levels[..., [0, 3]]
        if odd.suffix == ".webp" or len(found) > 1:  # formats and readers without grey
            expected, levels = (to_rgb(each) if each.shape[2] < 3 else each for each in (expected, levels))
        assert (levels.shape, levels.dtype) == (expected.shape, expected.dtype)
        difference = np.abs(np.subtract(levels, expected, dtype=int))
        if odd.is_lossless:
            assert difference.max() <= odd.tolerance
        else:
            assert difference.mean() < LOSS
    assert what_it_says(content) >= odd.keeps


def read_levels(content: bytes) -> np.ndarray:
    """Return what OpenCV shows of a file, in no way turned; where it fails, what tifffile or Pillow show."""
    if content[:2] == b"II":  # OpenCV would leave out the alpha of grey
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            levels = file.pages.first.asarray()
            return levels.reshape(*levels.shape[:2], -1)
    if content[4:8] in (b"ftyp", b"jP  "):  # it has no HEIC, and no JPEG 2000 of grey and alpha
        with Image.open(io.BytesIO(content)) as image:
            if image.format == "HEIF" or image.mode == "LA":
                return np.asarray(image).reshape(image.height, image.width, -1)
    levels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    levels = levels.reshape(*levels.shape[:2], -1)
    return levels[..., [2, 1, 0, 3][: levels.shape[2]]] if levels.shape[2] > 1 else levels


def read_frames(content: bytes) -> list[np.ndarray]:
    """Return what Pillow shows of an animation, and check that it is shown as `animations` made it."""
    with Image.open(io.BytesIO(content)) as image:
        frames, durations = [], []
        for position in range(image.n_frames):
            image.seek(position)
            frames.append(np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB")))
            durations.append(image.info["duration"])
        assert (durations, image.info["loop"]) == (DURATIONS, LOOP)
    return frames


def what_it_says(content: bytes) -> set[str]:
    """Return which of the metadata that were put into odd pictures a file has, and check that it says upright."""
    try:
        image = Image.open(io.BytesIO(content))
    except OSError:  # Pillow has no TIFF of grey with alpha in 16 bits
        return set()
    with image:
        image.load()
        tags, info = image.getexif(), image.info
        found = {
            "exif": tags.get(ExifTags.Base.Make) == "Camera" and EXPOSURE in tags.get_ifd(ExifTags.IFD.Exif),
            "gps": tags.get_ifd(ExifTags.IFD.GPSInfo).get(ExifTags.GPS.GPSLatitude) == (52.0, 30.0, 59.0),
            "icc": info.get("icc_profile") in (rgb_profile(), grey_profile()),
            "xmp": b"dc:title" in as_bytes(info.get("xmp") or info.get("XML:com.adobe.xmp") or b""),
            "dpi": np.allclose(info.get("dpi", 0), 300, atol=0.1),
            "text": "A title" in (as_bytes(info.get("comment", b"")).decode(), info.get("Title")),
        }
        assert tags.get(ExifTags.Base.Orientation, 1) == 1
        assert not re.search(rb'Orientation="[2-8]', as_bytes(info.get("xmp", b"")))
        width = tags.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ExifImageWidth, image.width)
        assert width == image.width
    return {name for name, is_there in found.items() if is_there}


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


ODD_PICTURES = [*png_pictures(), *jpeg_pictures(), *tiff_pictures(), *other_pictures()]
ANIMATIONS = animations()
REFUSED = refused_files()


def write_all(folder: Path) -> list[Path]:
    """Write all odd files into a folder, named after what is odd about them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for odd in (*ODD_PICTURES, *ANIMATIONS, *REFUSED):
        files.append(folder / f"{str(odd).replace('*', '')}{odd.suffix}")
        files[-1].write_bytes(odd.content)
    return files


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
