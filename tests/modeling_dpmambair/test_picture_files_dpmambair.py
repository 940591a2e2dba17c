"""The one reader of pictures, against Pillow's own conversions and values written down by hand."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from modeling_dpmambair import read_picture
from modeling_dpmambair.picture_files_dpmambair import FORMATS, read_values
from tests.restoring import photograph, read, save

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_LEVELS = np.array([[0, 257, 128 * 257, 65535 - 128, 65535 - 129]], np.uint16)


def encode(image=None, kind="PNG", **options):
    """Return a picture file's content."""
    stream = BytesIO()
    (image or photograph()).save(stream, kind, **options)
    return stream.getvalue()


# What is given


def test_every_form_of_a_picture_is_the_same_picture(tmp_path):
    picture = photograph()
    path = save(tmp_path / "photo.png", picture)
    floats = np.asarray(picture) / 255
    forms = [path, str(path), path.read_bytes(), BytesIO(path.read_bytes()), picture, np.asarray(picture)]
    for form in (*forms, floats, floats.astype(np.float16)):
        found = read_picture(form)
        assert found.mode == "RGB"
        np.testing.assert_array_equal(found, picture)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_promised_format_is_read(kind):
    content = encode(kind=kind)
    np.testing.assert_array_equal(read_picture(content), read(BytesIO(content)).convert("RGB"))


def test_open_file_stays_open(tmp_path):
    with open(save(tmp_path / "photo.png"), "rb") as file:
        read_picture(file)
        assert not file.closed


def test_given_picture_is_left_as_it_is():
    given = photograph()
    read_picture(given).putpixel((0, 0), (1, 2, 3))
    assert given == photograph()


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb_as_pillow_converts_them(mode):
    image = photograph().convert(mode)
    np.testing.assert_array_equal(read_picture(image), image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_kept(mode):
    image = photograph(mode=mode)
    np.testing.assert_array_equal(read_picture(image), image.convert("RGBA"))


def test_transparent_colour_becomes_alpha():
    palette = encode(Image.frombytes("P", (2, 1), b"\0\1"), "GIF", transparency=1)
    keyed = encode(Image.frombytes("RGB", (2, 1), bytes([9, 9, 9, 1, 2, 3])), transparency=(1, 2, 3))
    for content in (palette, keyed):
        assert np.asarray(read_picture(content).getchannel("A")).tolist() == [[255, 0]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_spans_the_whole_range(kind):
    for given in (Image.fromarray(GREY_LEVELS), encode(Image.fromarray(GREY_LEVELS), kind)):
        assert np.asarray(read_picture(given))[0, :, 0].tolist() == [0, 1, 128, 255, 254]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", exif=exif)
    turns = [
        None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
    ]  # fmt: skip
    turn = turns[orientation - 1]
    upright = photograph() if turn is None else photograph().transpose(turn)
    np.testing.assert_array_equal(read_picture(path), upright)
    np.testing.assert_array_equal(read_picture(read_picture(path)), upright)


@pytest.mark.parametrize(
    ("mode", "is_kept"), [("RGB", True), ("RGBA", True), ("P", True), ("L", False), ("CMYK", False)]
)
def test_colour_profile_is_kept_where_it_still_holds(mode, is_kept):
    found = read_picture(encode(photograph(mode=mode), "TIFF", icc_profile=PROFILE))
    assert found.info.get("icc_profile") == (PROFILE if is_kept else None)


def test_of_a_multi_picture_jpeg_the_first_is_the_photograph():
    content = encode(photograph(), "MPO", save_all=True, append_images=[photograph((8, 8))])
    assert read(BytesIO(content)).n_frames == 2
    assert read_picture(content).size == photograph().size


# Errors


@pytest.mark.parametrize(("source", "error", "message"), [
    (Image.new("F", (1, 1)), ValueError, "`image` must have 8 or 16 bits per channel, got mode F; "),
    (Image.new("I", (1, 1)), ValueError, "`image` must have 8 or 16 bits per channel, got mode I; "),
    (np.zeros((4, 5)), ValueError, r"`image` must be of shape \(H, W, 3\), got \(4, 5\); "),
    (np.zeros((3, 8, 8)), ValueError, r"`image` must be of shape \(H, W, 3\), got \(3, 8, 8\); "),
    (np.zeros((0, 8, 3)), ValueError, r"`image` must be of shape \(H, W, 3\), got \(0, 8, 3\); "),
    ("https://example.org/a.png", ValueError, "`image` must be a local file, got https://example.org/a.png; "),
    ("missing.png", FileNotFoundError, "missing.png"),
    (7, TypeError, "`image` must be a file, a PIL picture or an array, got int; "),
    (b"Dear diary", OSError, "`image` must be a picture in one of the formats AVIF, .*, got other content; "),
    (encode(kind="EPS"), OSError, "`image` must be a picture in one of the formats AVIF, .*, got other content; "),
])  # fmt: skip
def test_what_is_no_picture_is_an_error(source, error, message):
    with pytest.raises(error, match=message):
        read_picture(source)


def test_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(OSError, match=r"^`image` must be a picture in .*, got .*text\.png; convert it$"):
        read_picture(tmp_path / "text.png")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_animation_is_an_error(kind):
    content = encode(photograph(), kind, save_all=True, append_images=[photograph(seed=1)])
    with pytest.raises(ValueError, match="^`image` must have one frame, got 2; extract the frame to restore$"):
        read_picture(content)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "GIF"])  # which shows half a picture
def test_damaged_file_is_an_os_error_whatever_its_decoder_raises(kind):
    content = encode(photograph((64, 64)), kind)
    with pytest.raises(OSError):  # noqa: PT011 the texts are Pillow's
        read_picture(content[: len(content) // 2])


def test_unexpected_error_of_a_decoder_is_called_damage(monkeypatch):
    def fail(*_, **__):
        raise SyntaxError("broken chunk")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="^image file is damaged: broken chunk$"):
        read_picture(b"")


# Values of arrays and tensors


def test_levels_stay_levels_and_floats_become_float32():
    levels = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert torch.equal(read_values(levels), torch.arange(6, dtype=torch.uint8).view(1, 2, 3))
    for dtype in (np.float16, np.float32, ">f4", np.float64, np.longdouble):
        values = read_values((levels / 8).astype(dtype))
        assert values.dtype == torch.float32
        assert values.flatten().tolist() == [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(read_values(torch.from_numpy(levels / 8).to(dtype)), values)


def test_turned_and_read_only_arrays_are_taken():
    array = np.asarray(photograph())
    assert not array.flags.writeable
    np.testing.assert_array_equal(read_values(array[::-1, ::-2]), np.ascontiguousarray(array[::-1, ::-2]))
    np.testing.assert_array_equal(read_values(array), array)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "int64", "uint16", "complex64"])
def test_other_types_are_an_error(dtype):
    for array in (np.zeros((2, 2, 3), dtype), torch.zeros((3, 2, 2), dtype=getattr(torch, dtype))):
        with pytest.raises(ValueError, match=rf"^`image` must be uint8 or float, got (torch\.)?{dtype}; convert it"):
            read_values(array)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 255.0), (-0.5, 1.0), (float("nan"), float("nan")), (0.0, float("inf"))]
)
def test_floats_outside_their_range_are_an_error(low, high):
    values = np.full((2, 2, 3), low)
    values[0, 0, 0] = high
    message = rf"^`image` must be in \[0, 1\] if it is float, got \[{low}, {high}\]; divide it by its range$"
    for array in (values, values.astype(np.float16), torch.from_numpy(values)):
        with pytest.raises(ValueError, match=message):
            read_values(array)
