"""EXIF data byte for byte, and what a picture's file says beside its pixels, against Pillow's own reading."""

import struct

import pytest
from PIL import ExifTags, Image

from modeling_dpmambair import read_picture
from modeling_dpmambair.picture_metadata_dpmambair import correct_exif
from tests.odd_pictures import encode, exif
from tests.restoring import photograph

MAKER_NOTE = bytes(range(97))


def camera_exif(order):
    """Return EXIF data as a camera lays them out: main, EXIF and thumbnail directories, and the thumbnail last."""
    mark, short, long = {"<": (b"II*\0", "H", "I"), ">": (b"MM\0*", "H", "I")}[order]

    def pack(form, *values):
        return struct.pack(order + form, *values)

    def entry(tag, kind, count, value):
        return pack("HHI", tag, kind, count) + (pack("HH", value, 0) if kind == 3 else pack("I", value))

    preview = encode(Image.new("RGB", (8, 8)), "JPEG")
    main, inner = 8, 8 + 2 + 3 * 12 + 4
    note = inner + 2 + 3 * 12 + 4
    second = note + len(MAKER_NOTE)
    place = second + 2 + 2 * 12 + 4
    return b"".join([
        b"Exif\0\0", mark, pack("I", main),
        pack("H", 3), entry(274, 3, 1, 6), entry(296, 3, 1, 2), entry(34665, 4, 1, inner), pack("I", second),
        pack("H", 3), entry(37500, 7, len(MAKER_NOTE), note), entry(40962, 4, 1, 24), entry(40963, 3, 1, 16),
        pack("I", 0), MAKER_NOTE,
        pack("H", 2), entry(513, 4, 1, place), entry(514, 4, 1, len(preview)), pack("I", 0),
        preview,
    ])  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
def test_only_orientation_size_and_thumbnail_change(order):
    given = camera_exif(order)
    before = Image.Exif()
    before.load(given)
    assert (before[274], before.get_ifd(ExifTags.IFD.IFD1)[514]) == (6, len(given) - given.index(b"\xff\xd8"))
    found = correct_exif(given, (160, 90))
    after = Image.Exif()
    after.load(found)
    inner = after.get_ifd(ExifTags.IFD.Exif)
    assert (after[274], after[296], inner[40962], inner[40963]) == (1, 2, 160, 90)
    assert inner[37500] == MAKER_NOTE
    assert found.index(MAKER_NOTE) == given.index(MAKER_NOTE)  # makers count from the beginning
    assert after.get_ifd(ExifTags.IFD.IFD1) == {}
    assert b"\xff\xd8" not in found
    # All else is the same, bit for bit.
    changed = [place for place, (one, other) in enumerate(zip(given, found, strict=False)) if one != other]
    assert len(changed) < 20


def test_prefix_is_added_where_formats_leave_it_out():
    assert correct_exif(exif()[6:], (18, 13)) == correct_exif(exif(), (18, 13))
    assert correct_exif(exif()[6:], (18, 13)).startswith(b"Exif\0\0MM")


def test_exif_whose_directories_break_off_are_left_out():
    given = camera_exif("<")
    end = given.index(b"\xff\xd8") - 4  # nothing reads the link after the last directory
    assert [length for length in range(end) if correct_exif(given[:length], (24, 16)) is not None] == []


@pytest.mark.parametrize("length", [1, 10, 300])
def test_exif_that_break_off_in_their_thumbnail_keep_all_else(length):
    given = camera_exif("<")
    assert len(given) > given.index(b"\xff\xd8") + length
    found = correct_exif(given[: given.index(b"\xff\xd8") + length], (24, 16))
    after = Image.Exif()
    after.load(found)
    assert (after[274], after[296], after.get_ifd(ExifTags.IFD.Exif)[37500]) == (1, 2, MAKER_NOTE)
    assert b"\xff\xd8" not in found


def test_size_of_a_turned_picture_is_told_anew():
    given = read_picture(encode(photograph(), "JPEG", exif=camera_exif(">")))
    found = Image.Exif()
    found.load(given.metadata.exif)
    assert (found.get_ifd(ExifTags.IFD.Exif)[40962], found.get_ifd(ExifTags.IFD.Exif)[40963]) == given.size == (16, 24)


@pytest.mark.parametrize("text", ['tiff:Orientation="6"', "<tiff:Orientation>6</tiff:Orientation>"])
def test_orientation_in_xmp_alone_is_applied_and_reset(text):
    packet = f"<x:xmpmeta {text} keep='6'/>".encode()
    found = read_picture(encode(photograph(), "JPEG", xmp=packet))
    assert found.size == (16, 24)
    assert found.metadata.xmp == packet.replace(b"6", b"1", 1)


def test_resolution_of_tiff_is_told_in_inches():
    for unit, factor in ((2, 1), (3, 2.54)):
        content = encode(photograph(), "TIFF", x_resolution=118, y_resolution=59, resolution_unit=unit)
        assert read_picture(content).metadata.dpi == pytest.approx((118 * factor, 59 * factor))
    assert (
        read_picture(encode(photograph(), "TIFF", x_resolution=2, y_resolution=1, resolution_unit=1)).metadata.dpi
        is None
    )


def test_tags_of_how_a_tiff_file_stores_pixels_do_not_become_exif():
    given = read_picture(
        encode(photograph(), "TIFF", compression="tiff_lzw", description="A title", software="Scanner")
    )
    found = Image.Exif()
    found.load(given.metadata.exif)
    assert dict(found) == {270: "A title", 305: "Scanner"}


def test_texts_that_are_no_metadata_of_the_picture_are_left_out():
    assert read_picture(encode(photograph(), "TIFF", compression="tiff_lzw")).metadata.text == {}
    assert read_picture(encode(photograph(mode="P"), "GIF", comment=b"A title")).metadata.text == {
        "Comment": "A title"
    }
