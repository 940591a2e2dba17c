"""Bodies that nobody sends in good faith: cut, damaged, mistaken and giant files, and forms that are none."""

import struct
import zlib
from functools import cache
from io import BytesIO

import numpy as np

from tests.restoring import photograph

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Of width and height that giants declare.
GIANT = 10_000
FORM = "multipart/form-data; boundary=frontier"


def encoded(format, size=(40, 24), mode="RGB", **options):
    """Return the content of a file of random values."""
    content = BytesIO()
    photograph(size, mode).save(content, format, **options)
    return content.getvalue()


def cut_files(points=9):
    """Files of all formats that end too early."""
    for format in FORMATS:
        content = encoded(format)
        for point in range(points):
            yield f"cut {format} {point}", content[: len(content) * point // points]


def damaged_files(count=9):
    """Files of all formats with some of their bits flipped, the first ones near the beginning."""
    for format in FORMATS:
        for seed in range(count):
            rng = np.random.default_rng(seed)
            content = np.frombuffer(encoded(format), np.uint8).copy()
            places = rng.integers(0, 64 if seed < count // 2 else len(content), 1 + seed)
            content[places] ^= 1 << rng.integers(0, 8, len(places)).astype(np.uint8)
            yield f"damaged {format} {seed}", content.tobytes()


def mistaken_files():
    """What is no picture, or runs other programs."""
    yield "empty", b""
    yield "one byte", b"\0"
    yield "text", b"Dear diary\n" * 100
    yield "noise", np.random.default_rng(0).bytes(5000)
    yield "zeros", bytes(5000)
    yield "archive", b"PK\x03\x04" + bytes(100)
    yield "page", b"<!DOCTYPE html><script>alert(1)</script>"
    yield "drawing", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    yield "EPS", encoded("EPS")
    yield "PDF", encoded("PDF")
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(owned) (w) file closefile\n%%EOF\n"
    yield "icon", encoded("ICO")


def png(width, height, data, *chunks):
    """Return a PNG file of 8-bit grey from its compressed rows and other chunks, each a name and its content."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    others = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + others + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def giant_jpeg(side=GIANT):
    """Return a small JPEG whose header declares far more than it holds."""
    content = bytearray(encoded("JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", side, side)
    return bytes(content)


# What makes each file of some hundred bytes that declares a picture of far more than any limit.
GIANTS = {
    "giant JPEG": giant_jpeg,
    "giant PNG": lambda side: png(side, side, zlib.compress(bytes(1000))),
    "endless animation": lambda _: _endless_gif(1000, 50_000),
    "endless PNG": lambda _: png(2**31 - 1, 2**31 - 1, zlib.compress(b"")),
    "text bomb PNG": lambda _: png(9, 9, zlib.compress(bytes(90)), (b"zTXt", b"a\0\0" + _bomb())),
    "profile bomb PNG": lambda _: png(9, 9, zlib.compress(bytes(90)), (b"iCCP", b"a\0\0" + _bomb())),
    "rows bomb PNG": lambda _: png(9, 9, _bomb()),
    "giant GIF": lambda side: b"GIF89a" + struct.pack("<HH", side, side) + encoded("GIF")[10:],
    "giant BMP": lambda side: (bmp := encoded("BMP"))[:18] + struct.pack("<ii", side, side) + bmp[26:],
    "giant PPM": lambda side: b"P6\n%d %d\n255\n" % (side, side) + bytes(1000),
    "endless PPM": lambda _: b"P6\n" + b"9" * 5000 + b" 9\n255\n" + bytes(1000),
    "giant TIFF": lambda side: _patched_tiff(side),
    "giant WEBP": lambda side: _giant_webp(side),
    "giant JPEG 2000": lambda side: _patched(encoded("JPEG2000", no_jp2=True), 8, side),
    "giant AVIF": lambda side: _patched(avif := encoded("AVIF"), avif.index(b"ispe") + 8, side),
}


@cache
def giant_file(name, side=GIANT):
    """Return one of them, made once, as some take a while."""
    return GIANTS[name](side)


def giant_files(side=GIANT):
    """Files of some hundred bytes that declare pictures of far more than any limit."""
    return ((name, giant_file(name, side)) for name in GIANTS)


@cache
def _bomb():
    return zlib.compress(bytes(10**8))


def _patched(content, place, side):
    """Return a file whose width and height stand as numbers of 32 bits at a place."""
    return content[:place] + struct.pack(">II", side, side) + content[place + 8 :]


def _endless_gif(side, frames):
    """Return an animation whose frames change one pixel each."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame = b"\x21\xf9\x04\0\x0a\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    return head + frame * frames + b";"


def _patched_tiff(side):
    content = bytearray(encoded("TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry)[0] in (256, 257):  # width and height
            struct.pack_into("<HII", content, entry + 2, 4, 1, side)
    return bytes(content)


def _giant_webp(side):
    size = (side - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size
    animation = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    image = encoded("WEBP", (2, 2), lossless=True)[12:]
    frame = bytes(6) + bytes(3) + bytes(3) + bytes(3) + b"\0" + image
    frame = bytes(3) + bytes(3) + b"\1\0\0" + b"\1\0\0" + b"\1\0\0" + b"\0" + image
    content = extended + animation + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content


def crowded_tiff(size=10_000_000, tags=400):
    """Return a TIFF file all of whose tags claim the same bytes, so that they take far more than the file has."""
    basic = {254: 0, 256: 40, 257: 24, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 24, 279: 960}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in basic.items()]
    entries += [struct.pack("<HHII", 40_000 + number, 1, size, 8) for number in range(tags)]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + directory


def form(*parts, end=b"--frontier--\r\n"):
    """Return the body of a form from its parts, each a header's end and a content."""
    head = b"--frontier\r\nContent-Disposition: form-data; "
    return b"".join(head + named + b"\r\n\r\n" + content + b"\r\n" for named, content in parts) + end


def broken_forms():
    """Bodies that are called forms and hold not one picture; a name, a type and a body each."""
    one = (b'name="file"; filename="a.png"', encoded("PNG"))
    yield "form without a boundary", "multipart/form-data", form(one)
    yield "form with another boundary", "multipart/form-data; boundary=elsewhere", form(one)
    yield "form with an odd boundary", 'multipart/form-data; boundary="\xff\x01"', form(one)
    yield "form with an endless boundary", "multipart/form-data; boundary=" + "a" * 3000, form(one)
    yield "form without a file", FORM, form((b'name="file"', b"text"))
    yield "form with two files", FORM, form(one, one)
    yield "form with a field beside", FORM, form((b'name="strength"', b"1"), one)
    yield "form that is empty", FORM, b""
    yield "form that ends at once", FORM, form()
    yield "form that is cut", FORM, form(one)[:300]
    yield "form without an end", FORM, form(one, end=b"")
    yield "form that is a picture", FORM, encoded("PNG")
    yield "form without a name", FORM, form((b"", encoded("PNG")))
    yield "form with an odd name", FORM, form((b'name="\xff\xfe\0"; filename="\x1b[31m\n"', encoded("PNG")))
    yield "form with many headers", FORM, form((b'name="file"' + b"\r\na: b" * 5000, b""))
    yield "form with a long header", FORM, form((b'name="file"; filename="' + b"a" * 10**6 + b'"', b""))
    yield "form with another charset", FORM + "; charset=utf-7", form(one)[:-30]
    yield "form of an empty file", FORM, form((b'name="file"; filename="a.png"', b""))


def hostile_bodies():
    """All of them: a name, a content type and a body each."""
    files = (cut_files, damaged_files, mistaken_files, giant_files)
    yield from ((name, "application/octet-stream", content) for make in files for name, content in make())
    yield from broken_forms()
