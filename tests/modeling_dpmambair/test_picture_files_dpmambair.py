"""Reading and writing of picture files: what is given, what is refused, and what each format holds.

`test_odd_pictures.py` holds reader and writer to what other programs show of a long table of pictures.
"""

import os
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFile

from modeling_dpmambair import (
    DPMambaIRImageProcessor,
    ImageRestorationPipeline,
    Picture,
    Restorer,
    read_picture,
    write_picture,
)
from modeling_dpmambair import picture_encoding_dpmambair as encoding
from modeling_dpmambair import picture_files_dpmambair as files
from modeling_dpmambair import picture_levels_dpmambair as reading
from modeling_dpmambair.picture_files_dpmambair import FORMATS, list_suffixes
from tests.dpmambair.hostile import giant_file
from tests.modeling_dpmambair.models import small_model
from tests.odd_pictures import ANIMATIONS, ODD_PICTURES, REFUSED, chunk, encode, exif, png, rgb_profile, what_it_says
from tests.odd_pictures import photograph as levels_of
from tests.restoring import files_below, photograph, read, save

LOSSY = ("AVIF", "HEIF", "JPEG")


def odd(name):
    """Return the odd picture of that name."""
    return next(each for each in [*ODD_PICTURES, *ANIMATIONS, *REFUSED] if each.name == name)


def shown(picture):
    """Return an array of what a picture shows in 8 bits."""
    return np.asarray(picture.image)


def written(picture, format=None, **options):
    content = BytesIO()
    write_picture(picture, content, format, **options)
    return content.getvalue()


# What is given


def test_every_form_of_a_picture_is_the_same_picture(tmp_path):
    picture = photograph()
    path = save(tmp_path / "photo.png", picture)
    floats = np.asarray(picture) / 255
    forms = [path, str(path), path.read_bytes(), BytesIO(path.read_bytes()), picture, np.asarray(picture)]
    for form in (*forms, read(path), floats, floats.astype(np.float16), read_picture(path)):
        found = read_picture(form)
        assert (found.pixels.dtype, found.pixels.shape, found.alpha) == (torch.float32, (3, 16, 24), None)
        np.testing.assert_array_equal(shown(found), picture)


def test_every_level_is_its_fraction_exactly():
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        levels = np.arange(2**bits).astype(dtype).reshape(-1, 16, 1)
        found = read_picture(png(levels, bits, 0))
        assert torch.equal(found.pixels[1].flatten(), torch.arange(2**bits) / (2**bits - 1))
        np.testing.assert_array_equal(found.levels(bits), levels)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_promised_format_is_read(kind):
    content = encode(photograph(), kind)
    found = read_picture(content)
    assert found.format == kind
    np.testing.assert_array_equal(shown(found), read(BytesIO(content)).convert("RGB"))


def test_open_file_stays_open(tmp_path):
    with open(save(tmp_path / "photo.png"), "rb") as file:
        file.seek(7)
        read_picture(file)
        assert not file.closed


def test_stream_that_cannot_go_back_is_read(tmp_path):
    class Response(BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError("cannot seek")

    found = read_picture(Response(encode(photograph(), "PNG")))
    np.testing.assert_array_equal(shown(found), photograph())


def test_given_picture_is_left_as_it_is():
    given = photograph()
    read_picture(given).pixels.zero_()
    assert given == photograph()


@pytest.mark.parametrize("name", ["PNG RGB of 16 bits", "TIFF RGB of 16 bits, big end first", "PPM of 16 bits"])
def test_opened_picture_keeps_its_sixteen_bits_and_can_still_be_used(name):
    with Image.open(BytesIO(odd(name).content)) as image:
        np.testing.assert_array_equal(read_picture(image).levels(16), odd(name).levels)
        np.testing.assert_array_equal(read_picture(image).levels(16), odd(name).levels)
        assert image.convert("RGB").size == image.size
        assert read_picture(image).bit_depth == 8  # it is loaded, and Pillow has kept the high bytes


def test_opened_animation_is_the_frame_that_it_shows():
    with Image.open(BytesIO(odd("PNG animated").content)) as image:
        image.seek(1)
        np.testing.assert_array_equal(shown(read_picture(image)), odd("PNG animated").frames[1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_every_mode_is_read_as_pillow_converts_it(mode):
    image = photograph(mode="RGBA" if mode in ("PA", "LA", "La", "RGBA") else "RGB")
    image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
    found = read_picture(image)
    expected = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA"}.get(mode, "RGB")
    assert found.image.mode == expected
    assert np.abs(np.subtract(shown(found), image.convert(expected), dtype=int)).max() <= (mode == "La")


# What is refused


@pytest.mark.parametrize(("source", "error", "message"), [
    (Image.new("F", (1, 1)), ValueError, "`image` must have 8 or 16 bits per channel, got mode F; "),
    (Image.new("I", (1, 1)), ValueError, "`image` must have 8 or 16 bits per channel, got mode I; "),
    (np.zeros((4, 5)), ValueError, r"`image` must be of shape \(H, W, 3\), got \(4, 5\); "),
    (np.zeros((3, 8, 8)), ValueError, r"`image` must be of shape \(H, W, 3\), got \(3, 8, 8\); "),
    (np.zeros((0, 8, 3)), ValueError, r"`image` must be of shape \(H, W, 3\), got \(0, 8, 3\); "),
    ("https://example.org/a.png", ValueError, "`image` must be a local file, got https://example.org/a.png; "),
    ("missing.png", FileNotFoundError, "missing.png"),
    (7, TypeError, "`image` must be a file, a PIL picture or an array, got int; "),
])  # fmt: skip
def test_what_is_no_picture_is_an_error(source, error, message):
    with pytest.raises(error, match=message):
        read_picture(source)


def test_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(OSError, match=r"^`image` must be a picture in .*, got .*text\.png; convert it$"):
        read_picture(tmp_path / "text.png")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_socket, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make("photo.png")
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(OSError, match="^`image` must be a regular file, got photo.png, which is none; name a file$"):
        read_picture("photo.png")


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO"])
def test_opened_picture_of_a_format_off_the_list_is_not_loaded(monkeypatch, kind):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was loaded"))
    image = ImageFile.ImageFile.__new__(ImageFile.ImageFile)
    image.format = kind
    with pytest.raises(ValueError, match=f"^`image` must be in one of the formats AVIF, .*, got {kind}; convert it$"):
        read_picture(image)


@pytest.mark.parametrize(
    "error", [SyntaxError("broken\nchunk"), RuntimeError("broken chunk"), KeyError("broken chunk")]
)
def test_whatever_a_decoder_raises_is_damage_in_one_line(monkeypatch, error):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: (_ for _ in ()).throw(error))
    with pytest.raises(OSError, match="^image file is damaged: '?broken chunk'?$"):
        read_picture(encode(photograph(), "PNG"))


def test_too_many_pixels_are_refused_by_the_header(monkeypatch):
    contents = [encode(photograph(), "PNG"), odd("TIFF RGB").content, odd("GIF animated").content]
    sizes = ["24 x 16", "18 x 13", "18 x 13 x 3 frames"]
    for content, size, pixels in zip(contents, sizes, (24 * 16, 18 * 13, 18 * 13 * 3), strict=True):
        assert read_picture(content, max_pixels=pixels)
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
            rule = f"at most {pixels - 1} pixels, got {size}; make it smaller"
            with pytest.raises(ValueError, match=f"^`image` must have {rule}$"):
                read_picture(content, max_pixels=pixels - 1)


def test_guard_on_pixels_counts_the_frames_of_an_animation_and_knows_tiff(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 18 * 13)
    with pytest.raises(Image.DecompressionBombError, match="^18 x 13 x 3 frames pixels could be a decompression bomb"):
        read_picture(odd("PNG animated").content)
    assert read_picture(odd("TIFF grey and alpha of 16 bits").content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 18 * 13 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError, match="^18 x 13 pixels could be a decompression bomb"):
        read_picture(odd("TIFF grey and alpha of 16 bits").content)


def make_blank_fax():
    return encode(Image.new("1", (10_000, 10_000)), "TIFF", compression="group4")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", ["giant GIF", "giant WEBP", "giant AVIF", "blank fax"])
def test_few_bytes_that_declare_many_pixels_are_refused_before_they_are_decoded(monkeypatch, name):
    content = make_blank_fax() if name == "blank fax" else giant_file(name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    message = (
        f"^10000 x 10000 pixels in {len(content)} bytes could be a decompression bomb; restore a smaller picture$"
    )
    with pytest.raises(Image.DecompressionBombError, match=message):
        read_picture(content)


@pytest.mark.parametrize(
    ("size", "format", "options"),
    [
        ((3000, 2000), "PNG", {}),
        ((1000, 1000), "WEBP", {"lossless": True}),
        ((1000, 1000), "TIFF", {"compression": "group4"}),
    ],
)
def test_blank_pictures_of_an_ordinary_size_are_read(size, format, options):
    mode = "1" if format == "TIFF" else "L"
    assert read_picture(encode(Image.new(mode, size), format, **options)).size == size


MEASURE = """
import resource, sys, warnings
from PIL import Image
from modeling_dpmambair import read_picture

warnings.simplefilter("ignore")
read_picture(Image.new("RGB", (8, 8)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_picture(path)
        print(path, "was read")
    except (OSError, Image.DecompressionBombError):
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_declared_giants_take_no_memory_before_they_are_refused(tmp_path):
    size, deep = (10_000).to_bytes(4, "big") * 2, png(levels_of(3, 16), 16, 2)
    giants = {
        "giant.jpg": odd("JPEG that declares far more than it holds").content,
        "giant.png": deep[:8] + chunk(b"IHDR", size + deep[24:29]) + deep[33:],
        "giant.ppm": b"P6 10000 10000 65535\n" + bytes(99),
        "giant.bmp": encode(photograph(), "BMP").replace(b"\x18\0\0\0\x10\0\0\0", (10_000).to_bytes(4, "little") * 2),
    }
    for name, content in giants.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *(tmp_path / name for name in giants)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    taken = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert int(taken) < 20_000  # KiB; each picture would take 300,000 and more


# Without the packages that not everybody has


def test_heic_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(files, "pillow_heif", None)
    monkeypatch.setattr(files, "FORMATS", tuple(each for each in FORMATS if each != "HEIF"))
    with pytest.raises(OSError, match="^other content is a HEIC picture; pip install pillow-heif to read it$"):
        read_picture(odd("HEIC").content)
    assert list_suffixes()[".heic"] == "HEIF"
    with pytest.raises(ValueError, match="^`format` must be one of AVIF, .*, got heic; choose one$"):
        written(read_picture(photograph()), "heic")


def test_sixteen_bits_without_their_packages_say_what_to_install(monkeypatch):
    monkeypatch.setattr(files, "tifffile", None)
    for module in (reading, encoding):
        monkeypatch.setattr(module, "imagecodecs", None)
    monkeypatch.setattr(reading, "tifffile", None)
    for name in ("PNG RGB of 16 bits", "JPEG 2000 of 16 bits"):
        with pytest.raises(OSError, match="^pictures of 16 bits need imagecodecs; pip install imagecodecs$"):
            read_picture(odd(name).content)
    with pytest.raises(OSError, match="^pictures of 16 bits need imagecodecs; pip install imagecodecs$"):
        written(read_picture(np.zeros((4, 4, 3))), "PNG")
    with pytest.raises(
        OSError, match="^16-bit TIFF needs tifffile and imagecodecs; pip install tifffile imagecodecs$"
    ):
        read_picture(odd("TIFF RGB of 16 bits, big end first").content)
    for name in ("TIFF RGB", "TIFF with all metadata", "TIFF CMYK with its profile"):
        found = read_picture(odd(name).content)
        assert np.abs(np.subtract(found.levels(8), odd(name).levels, dtype=int)).max() <= odd(name).tolerance
        assert what_it_says(written(found)) >= odd(name).keeps
    with pytest.raises(ValueError, match="^`image` must have one page, got 2; split it into its pages$"):
        read_picture(odd("TIFF of several pages").content)


# Small files that would fill the memory


def test_pages_that_follow_each_other_for_ever_are_refused():
    content = BytesIO()
    with tifffile.TiffWriter(content) as file:
        for _ in range(2):
            file.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    with tifffile.TiffFile(BytesIO(content.getvalue())) as file:
        first, second = (page.offset for page in file.pages)
    data = bytearray(content.getvalue())
    (count,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * count, first)
    with pytest.raises(ValueError, match="^`image` must have one page, got "):
        read_picture(bytes(data))


def test_a_strip_larger_than_its_page_is_not_decoded(monkeypatch):
    content = BytesIO()
    tifffile.imwrite(content, np.zeros((16, 16, 3), np.uint8), photometric="rgb", compression="jpeg")
    data = bytearray(content.getvalue())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 9000, 9000)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("the page was decoded"))
    with pytest.raises(OSError, match="a strip or tile is larger than the page declares$"):
        read_picture(bytes(data))
    data[data.index(b"\xff\xd8")] = 0
    with pytest.raises(OSError, match="^image file is damaged: a strip or tile is no JPEG picture$"):
        read_picture(bytes(data))


def test_more_samples_than_photographs_have_are_refused():
    content = BytesIO()
    tifffile.imwrite(content, np.zeros((8, 8, 9), np.uint8), photometric="rgb", planarconfig="contig")
    with pytest.raises(ValueError, match="^`image` must have all channels .*, got 9 samples of RGB; convert it$"):
        read_picture(content.getvalue())


def test_what_an_encoder_cannot_write_is_an_error_of_the_file():
    frame = Picture(torch.zeros(3, 8, 20_000))
    with pytest.raises(OSError, match="^cannot write WEBP: "):
        written(replace(frame, later=(frame,)), "WEBP")


# Metadata


def test_orientation_is_applied_once(tmp_path):
    path = save(tmp_path / "turned.png", exif=exif(6))
    upright = photograph().transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(shown(read_picture(path)), upright)
    again = read_picture(written(read_picture(path)))
    np.testing.assert_array_equal(shown(again), upright)


@pytest.mark.parametrize("format", FORMATS)
def test_without_metadata_only_the_colour_profile_is_written(format):
    picture = replace(read_picture(odd("PNG with all metadata").content), format=format)
    said = what_it_says(written(picture, keep_metadata=False))
    assert said == what_it_says(written(picture)) & {"icc"}


@pytest.mark.parametrize(("format", "kept"), [
    ("AVIF", {"exif", "gps", "icc", "xmp"}), ("HEIF", {"exif", "gps", "icc", "xmp"}),
    ("JPEG", {"exif", "gps", "icc", "xmp", "dpi"}), ("PNG", {"exif", "gps", "icc", "xmp", "dpi", "text"}),
    ("TIFF", {"exif", "gps", "icc", "xmp", "dpi"}), ("WEBP", {"exif", "gps", "icc", "xmp"}), ("BMP", {"dpi"}),
])  # fmt: skip
@pytest.mark.parametrize("source", ["PNG with all metadata", "TIFF with all metadata", "JPEG with all metadata"])
def test_each_format_takes_what_it_holds(source, format, kept):
    given = odd(source)
    assert what_it_says(written(read_picture(given.content), format)) >= kept & given.keeps - {"text"}


def test_metadata_too_long_for_jpeg_are_left_out_of_it():
    picture = read_picture(odd("PNG with all metadata").content)
    long = replace(picture.metadata, exif=picture.metadata.exif + bytes(70_000), xmp=bytes(70_000))
    assert what_it_says(written(replace(picture, metadata=long), "JPEG")) == {"icc", "dpi"}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_is_left_out(tmp_path):
    for damaged in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nothing", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        found = read_picture(encode(photograph(), "JPEG", exif=damaged))
        assert found.metadata.exif is None
        assert found.size == (24, 16)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_colour_profile_is_kept_where_it_fits(mode):
    found = read_picture(encode(photograph(mode=mode), "PNG", icc_profile=rgb_profile()))
    assert found.metadata.icc_profile == (None if mode == "L" else rgb_profile())
    assert found.image.info.get("icc_profile") == found.metadata.icc_profile


# Writing


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_format_is_written_without_loss_if_it_can(format, mode):
    # Smooth, as HEIF halves the resolution of colours.
    given = photograph((3, 2), mode).resize((24, 16), Image.Resampling.BICUBIC)
    image = read(BytesIO(written(read_picture(given), format.lower())))
    assert image.format == format
    difference = np.abs(np.subtract(image.convert(mode), given, dtype=int))
    if format in (*LOSSY, "GIF"):
        assert difference.mean() < 8
    else:
        assert difference.max() == 0


def test_suffix_or_picture_name_the_format(tmp_path):
    picture = replace(read_picture(photograph()), format="WEBP")
    for name, format in (("a.jpg", "JPEG"), ("a.TIF", "TIFF"), ("a.jp2", "JPEG2000"), ("a.heic", "HEIF")):
        write_picture(picture, tmp_path / name)
        assert read(tmp_path / name).format == format
    write_picture(picture, tmp_path / "a", "png")
    assert read(tmp_path / "a").format == "PNG"
    assert read(BytesIO(written(picture))).format == "WEBP"
    assert read(BytesIO(written(replace(picture, format=None)))).format == "PNG"


@pytest.mark.parametrize(("options", "message"), [
    ({"format": "EPS"}, "`format` must be one of AVIF, BMP, .*, got EPS; choose one"),
    ({"quality": 0}, "`quality` must be a whole number from 1 to 100, got 0; leave it out for the best"),
    ({"quality": 101}, "`quality` must be a whole number from 1 to 100, got 101; "),
    ({"quality": 9.5}, "`quality` must be a whole number from 1 to 100, got 9.5; "),
])  # fmt: skip
def test_impossible_option_is_an_error(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        written(read_picture(photograph()), **options)


def test_unknown_suffix_is_an_error(tmp_path):
    for name in ("a", "a.xyz", "a.eps"):
        with pytest.raises(
            ValueError, match=rf"^`target` must end in one of .* \.heic.*, got .*{name}; give its format$"
        ):
            write_picture(read_picture(photograph()), tmp_path / name)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("format", ["AVIF", "HEIF", "JPEG", "WEBP"])
def test_quality_is_a_matter_of_size(format):
    picture = read_picture(photograph((64, 64)))
    sizes = [len(written(picture, format, quality=quality)) for quality in (10, 50, 90)]
    assert sizes == sorted(set(sizes))
    assert len(written(picture, format)) > sizes[1]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("is_lossless", [True, False])
def test_webp_loses_detail_where_it_had_lost_some_and_nowhere_else(frames, is_lossless):
    images = [photograph((64, 64), mode="RGBA", seed=seed) for seed in range(frames)]
    given = encode(images[0], "WEBP", save_all=frames > 1, append_images=images[1:], lossless=is_lossless, exact=True)
    picture = read_picture(given)
    assert picture.is_lossy != is_lossless
    content = written(picture, "WEBP")
    again = read_picture(content)
    assert (again.is_lossy, len(again.frames)) == (not is_lossless, frames)
    errors = [
        (a.pixels - b.pixels)[:, a.alpha > 0].abs().mean() for a, b in zip(picture.frames, again.frames, strict=True)
    ]
    assert max(errors) <= (0 if is_lossless else 0.03)
    assert len(written(picture, "WEBP", quality=30)) < len(content)
    assert read_picture(written(replace(picture, is_lossy=False), "WEBP")).is_lossy is False


@pytest.mark.parametrize("format", ["BMP", "JPEG", "PPM"])
def test_transparency_is_not_lost_in_silence(format):
    picture = read_picture(photograph(mode="RGBA"))
    with pytest.raises(
        ValueError, match=f"^`format` must hold transparency for this picture, got {format}; choose PNG"
    ):
        written(picture, format)
    opaque = replace(picture, alpha=torch.ones_like(picture.alpha))
    assert read(BytesIO(written(opaque, format))).mode == "RGB"


def test_partial_transparency_is_not_lost_in_silence():
    with pytest.raises(ValueError, match="^`format` must hold partial transparency for this picture, got GIF; "):
        written(read_picture(photograph(mode="RGBA")), "GIF")
    levels = np.asarray(photograph(mode="RGBA")) | np.array([0, 0, 0, 255], np.uint8)
    levels[:4, :, 3] = 0
    found = read(BytesIO(written(read_picture(Image.fromarray(levels)), "GIF"))).convert("RGBA")
    np.testing.assert_array_equal(np.asarray(found)[..., 3], levels[..., 3])


def test_animation_is_not_lost_in_silence():
    picture = read_picture(odd("PNG animated").content)
    for format in ("BMP", "JPEG", "TIFF"):
        rule = f"one of AVIF, GIF, PNG, WEBP for an animation, got {format}"
        with pytest.raises(ValueError, match=f"^`format` must be {rule}; choose one$"):
            written(picture, format)


@pytest.mark.parametrize("format", ["AVIF", "GIF", "PNG", "WEBP"])
@pytest.mark.parametrize("name", ["PNG animated", "GIF animated", "WebP animated"])
def test_animation_changes_its_format_with_its_timing(name, format):
    found = read_picture(written(read_picture(odd(name).content), format))
    assert [frame.duration for frame in found.frames] == [80, 160, 80]
    assert found.metadata.loop == (None if format == "AVIF" else 2)


def test_picture_for_programs_without_animations_stays_apart(tmp_path):
    frames = [photograph(seed=seed) for seed in range(3)]
    options = {"save_all": True, "append_images": frames[1:], "default_image": True, "duration": [30, 40]}
    again = read(BytesIO(written(read_picture(encode(frames[0], "PNG", **options)))))
    assert again.info["default_image"]
    np.testing.assert_array_equal(again, frames[0])


def test_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = save(tmp_path / "photo.png")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_picture(read_picture(photograph(seed=1)), path)
    assert files_below(tmp_path) == ["photo.png"]
    assert path.read_bytes() == before


def test_longest_file_name_is_written(tmp_path):
    name = "é" * 125 + ".png"
    assert len(name.encode()) == 254
    write_picture(read_picture(photograph()), tmp_path / name)
    assert files_below(tmp_path) == [name]


@pytest.mark.parametrize("odd", ["half a PNG file", "TIFF of several pages", "an animation", "nothing"])
def test_doors_name_the_file_that_they_refuse(tmp_path, odd):
    content = ANIMATIONS[0].content if odd == "an animation" else next(e.content for e in REFUSED if e.name == odd)
    path = tmp_path / "picture"
    path.write_bytes(content)
    processor = DPMambaIRImageProcessor()
    restorer = Restorer(small_model(), processor)
    pipe = ImageRestorationPipeline(model=restorer.model, image_processor=processor, device="cpu")
    for door in (restorer, processor, pipe, lambda path: pipe([str(path)])):
        with pytest.raises((OSError, ValueError)) as caught:
            door(path)
        assert str(caught.value).count(str(path)) == 1
