import io
import zlib

import numpy as np
import pytest
from PIL import Image
from restoration_page import pictures
from restoration_page.pictures import UnusablePictureError, read_file, read_upload

from modeling_dpmambair import read_picture
from tests.restoring import photograph


def encode(image=None, kind="PNG", **options):
    """Return a picture file's content."""
    stream = io.BytesIO()
    (image or photograph()).save(stream, kind, **options)
    return stream.getvalue()


def read(content):
    """Read an upload as the page does, whose pipeline brings the reader."""
    return read_upload(content, read_picture)


@pytest.mark.parametrize("kind", pictures.UPLOAD_FORMATS)
def test_every_promised_format_is_read(kind):
    content = encode(kind=kind)
    assert np.array_equal(read(content).image, read_picture(content).image)


@pytest.mark.parametrize("content", [b"", b"not a picture", encode(kind="GIF"), encode(kind="EPS")])
def test_other_files_are_refused_by_naming_the_formats(content):
    with pytest.raises(UnusablePictureError, match="not a picture that can be read here.*AVIF, BMP, JPEG"):
        read(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_damaged_picture_is_refused(kind):
    content = encode(photograph((64, 64)), kind)
    with pytest.raises(UnusablePictureError, match="damaged"):
        read(content[: len(content) // 2] if kind != "TIFF" else content[:200] + content[-200:])


def encode_header(width, height):
    """Return the content of a PNG file that states a size, and has not nearly as many pixels."""
    content = bytearray(encode())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_too_large_picture_is_refused_by_its_header():
    with pytest.raises(UnusablePictureError, match="has 16.4 megapixels, and this page takes up to 16"):
        read(encode_header(4096, 4000))
    with pytest.raises(UnusablePictureError, match="damaged"):
        read(encode_header(4000, 4000))


def test_a_bomb_is_refused():
    with pytest.raises(UnusablePictureError, match="far too many megapixels"):
        read(encode_header(100_000, 100_000))


def test_largest_picture_of_a_phone_is_within_the_limit():
    assert pictures.MAX_MEGAPIXELS >= 4032 * 3024 / 1e6


def test_what_the_reader_refuses_is_put_in_words_for_visitors():
    with pytest.raises(
        UnusablePictureError, match="^This picture cannot be restored: it must have one frame, got 2; "
    ):
        read(encode(save_all=True, append_images=[photograph(seed=1)]))
    with pytest.raises(
        UnusablePictureError, match="it must have 8 or 16 bits per channel, got float32; convert it first.$"
    ):
        read(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_vanished_file_is_said_to_be_gone(tmp_path):
    with pytest.raises(UnusablePictureError, match="no longer on the server"):
        read_file(tmp_path / "gone.png")
