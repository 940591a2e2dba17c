"""Parts of pictures, against Pillow's decoding of the whole."""

import io

import numpy as np
import PIL.ExifTags
import pytest
from PIL import Image, ImageOps, features

from dataset_scripts import decoding
from dataset_scripts.decoding import Memory, Picture, Pictures, find_baseline_frame, keep_upper_rows, shrink
from dataset_scripts.transforms import Window

from .conftest import draw_picture, encode

SHAPE = (150, 203)
WINDOWS = [Window(0, 0, 40, 40), Window(63, 100, 16, 31), Window(64, 0, 64, 64), Window(110, 163, 40, 40)]


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    # Fine coloured detail, so that a wrong row of colours shows.
    noise = np.random.default_rng(1).integers(60, size=(*SHAPE, 3), dtype=np.uint8)
    return draw_picture(*SHAPE, seed=0) // 2 + noise


FORMS = {
    "4:2:0": ("JPEG", {"quality": 90, "subsampling": "4:2:0"}),
    "4:2:2": ("JPEG", {"quality": 90, "subsampling": "4:2:2"}),
    "4:4:4": ("JPEG", {"quality": 90, "subsampling": "4:4:4", "optimize": True}),
    "restart": ("JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "thumbnail": ("JPEG", {"comment": b"\xff\xc0\x00\x11", "exif": Image.Exif()}),
    "progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    **({"avif": ("AVIF", {"quality": 90, "subsampling": "4:4:4"})} if features.check("avif") else {}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", WINDOWS)
def test_part_equals_the_part_of_the_whole(picture, form, window):
    content = encode(picture, FORMS[form][0], **FORMS[form][1])
    whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    opened = Picture(content)
    assert (opened.height, opened.width) == SHAPE
    expected = whole[window.top : window.top + window.height, window.left : window.left + window.width]
    np.testing.assert_array_equal(opened.read(window), expected)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_part_of_a_jpeg_in_another_mode_becomes_rgb(picture, mode):
    file = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(file, "JPEG")
    whole = np.asarray(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(Picture(file.getvalue()).read(WINDOWS[1]), whole[63:79, 100:131])


@pytest.mark.parametrize("form", FORMS)
def test_only_baseline_jpegs_are_shortened(picture, form):
    content = encode(picture, FORMS[form][0], **FORMS[form][1])
    is_baseline = FORMS[form][0] == "JPEG" and form != "progressive"
    assert (find_baseline_frame(content) is not None) == is_baseline
    # 17 rows lie in two rows of blocks, and the next lends its colours.
    rows = Image.open(io.BytesIO(keep_upper_rows(content, 17))).height
    assert rows == (48 if is_baseline else SHAPE[0])


def test_last_rows_leave_the_file_as_it_is(picture):
    content = encode(picture, "JPEG")
    assert keep_upper_rows(content, 140) is content


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd8" + bytes(20), b"\xff\xd8" + bytes(40)])
def test_header_that_makes_no_sense_has_no_frame(content):
    assert find_baseline_frame(content) is None


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_picture_that_a_camera_turned_is_read_upright(picture, orientation):
    exif = Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    content = encode(picture, "JPEG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    opened = Picture(content)
    assert (opened.height, opened.width) == upright.shape[:2]
    np.testing.assert_array_equal(opened.read(Window(10, 20, 30, 40)), upright[10:40, 20:60])


def test_pictures_are_kept_within_their_bound(dataset, monkeypatch):
    decoded = []
    decode = decoding._decode
    monkeypatch.setattr(decoding, "_decode", lambda content: decoded.append(content) or decode(content))
    sizes = [np.asarray(row["clean"]).nbytes for row in dataset]
    pictures = Pictures(dataset, "clean", Memory(sum(sizes[:3])))
    assert len(pictures) == len(dataset)
    for _ in range(4):
        for index in range(len(dataset)):
            window = Window(3, 4, 10, 12)
            expected = np.asarray(dataset[index]["clean"])[3:13, 4:16]
            np.testing.assert_array_equal(pictures[index].read(window), expected)
    # The first three, and the tiny last one if it fits, once; the others at each visit.
    assert len(decoded) == 3 + 4 * (len(dataset) - 3)


def test_columns_share_one_memory(dataset):
    memory = Memory(np.asarray(dataset[0]["clean"]).nbytes)
    first, second = (Pictures(dataset, "clean", memory) for _ in range(2))
    assert first[0] is first[0]
    assert second[0] is not second[0]
    assert memory.free_bytes == 0


def test_photographs_are_never_shrunk_below_the_patch():
    picture = Picture(encode(draw_picture(60, 90, 0), "PNG"))
    smaller = shrink(picture, (0.01, 0.02), 24, np.random.default_rng(0))
    assert (smaller.height, smaller.width) == (24, 36)
    assert shrink(picture, (0.01, 0.02), 61, np.random.default_rng(0)) is picture
