import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from transformers import AutoImageProcessor

from modeling_dpmambair import DPMambaIRImageProcessor, DPMambaIRModel
from tests.modeling_dpmambair.models import small_model

PHOTOGRAPH = data.astronaut()[40:77, 180:233]
TINY = [(1, 1), (3, 1), (1, 3), (3, 3), (4, 3), (3, 4), (2, 5)]


@pytest.fixture(scope="module")
def processor():
    return DPMambaIRImageProcessor()


def process(processor, images):
    return processor(images=images, return_tensors="pt")["pixel_values"]


def as_tensor(array):
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)


def as_input(array, form):
    """The same picture in another form that the processor takes."""
    forms = {
        "PIL": lambda: Image.fromarray(array),
        "numpy": lambda: array,
        "numpy, channels first": lambda: array.transpose(2, 0, 1),
        "torch": lambda: as_tensor(array),
        "list": lambda: [array],
        "list of PIL": lambda: [Image.fromarray(array)],
        "batch": lambda: array[None],
        "torch batch": lambda: as_tensor(array)[None],
    }
    return forms[form]()


FORMS = ["PIL", "numpy", "numpy, channels first", "torch", "list", "list of PIL", "batch", "torch batch"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_gives_its_values(processor, form):
    values = process(processor, as_input(PHOTOGRAPH, form))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, as_tensor(PHOTOGRAPH)[None] / 255, rtol=0, atol=1e-7)


def test_values_are_levels_over_255(processor):
    levels = np.arange(256, dtype=np.uint8)
    values = process(processor, Image.fromarray(np.stack([levels] * 3, -1).reshape(16, 16, 3)))
    assert torch.equal(values[0, 0].flatten(), torch.from_numpy(levels) / 255)


@pytest.mark.parametrize("size", TINY)
def test_small_pictures_are_not_mistaken_for_channels(processor, size):
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    values = process(processor, Image.fromarray(array))
    torch.testing.assert_close(values, as_tensor(array)[None] / 255, rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (255, 130)])
def test_nothing_is_padded_or_resized(processor, size):
    assert process(processor, Image.fromarray(np.zeros((*size, 3), np.uint8))).shape == (1, 3, *size)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(processor, mode):
    image = Image.fromarray(PHOTOGRAPH).convert(mode)
    expected = as_tensor(image.convert("RGB"))[None] / 255
    torch.testing.assert_close(process(processor, image), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("form", ["PIL", "numpy", "torch"])
def test_alpha_channel_is_left_out(processor, form):
    alpha = np.random.default_rng(0).integers(1, 256, (*PHOTOGRAPH.shape[:2], 1), np.uint8)
    given = as_input(np.concatenate([PHOTOGRAPH, alpha], -1), form)
    assert torch.equal(process(processor, given), process(processor, PHOTOGRAPH))


def test_what_is_transparent_is_filled_with_the_colour_around_it(processor):
    levels = np.full((8, 8, 4), (200, 100, 50, 255), np.uint8)
    levels[2:6, 2:6] = (0, 255, 0, 0)
    values = process(processor, Image.fromarray(levels))
    torch.testing.assert_close(values, torch.tensor([200, 100, 50]).view(1, 3, 1, 1).expand_as(values) / 255)


def test_array_of_one_channel_is_grey(processor):
    values = process(processor, PHOTOGRAPH[..., :1])
    assert torch.equal(values, process(processor, PHOTOGRAPH)[:, :1].expand(1, 3, -1, -1))


def test_palette_colours_are_looked_up(processor):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    expected = torch.tensor([[200, 10], [100, 20], [50, 30]]).view(1, 3, 1, 2) / 255
    torch.testing.assert_close(process(processor, image), expected, rtol=0, atol=1e-7)


# The reader's rules


def test_sixteen_bit_grey_keeps_its_levels(processor, tmp_path):
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        values = process(processor, image)
    assert torch.equal(values, torch.tensor([0, 1, 128, 255]).expand(1, 3, 1, 4) / 255)


def test_orientation_is_applied(processor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert torch.equal(process(processor, image), process(processor, np.rot90(PHOTOGRAPH, -1)))


def test_files_are_read_by_their_paths(processor, tmp_path):
    path = tmp_path / "photograph.png"
    Image.fromarray(PHOTOGRAPH).save(path)
    assert torch.equal(process(processor, [path, str(path)]), process(processor, [PHOTOGRAPH, PHOTOGRAPH]))


@pytest.mark.parametrize("form", ["numpy", "numpy, channels first", "torch", "list", "batch", "torch batch"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(processor, form, dtype):
    floats = (PHOTOGRAPH / 256).astype(dtype)
    for options in ({}, {"do_rescale": False}):
        values = processor(images=as_input(floats, form), return_tensors="pt", **options)["pixel_values"]
        assert torch.equal(values, as_tensor(floats)[None].float())


def test_levels_and_floats_share_a_batch(processor):
    for options in ({}, {"disable_grouping": False}):
        values = processor(images=[PHOTOGRAPH, PHOTOGRAPH / 255], return_tensors="pt", **options)["pixel_values"]
        torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-7)


def test_levels_stay_levels_where_nothing_is_rescaled(processor):
    values = processor(images=PHOTOGRAPH, do_rescale=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(values, as_tensor(PHOTOGRAPH)[None])


def test_three_rows_are_told_from_channels_by_the_format(processor):
    rows = PHOTOGRAPH[:3]
    values = processor(images=rows, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(values, as_tensor(rows)[None] / 255, rtol=0, atol=1e-7)


def test_turned_arrays_are_taken(processor):
    values = process(processor, PHOTOGRAPH[::-1, ::-1])
    assert torch.equal(values.flip(-1, -2), process(processor, PHOTOGRAPH))


@pytest.mark.parametrize(("given", "error", "message"), [
    (Image.new("F", (4, 4)), ValueError, "`image` must have 8 or 16 bits per channel, got mode F; "),
    (PHOTOGRAPH.astype(np.uint16), ValueError, "`image` must be uint8 or float, got uint16; "),
    (PHOTOGRAPH > 99, ValueError, "`image` must be uint8 or float, got bool; "),
    (as_tensor(PHOTOGRAPH).long(), ValueError, r"`image` must be uint8 or float, got torch\.int64; "),
    (PHOTOGRAPH.astype(np.float32), ValueError, r"`image` must be in \[0, 1\] if it is float, got \[0.0, 216.0\]; "),
    ([PHOTOGRAPH, np.full((4, 4, 3), np.nan)], ValueError, r"in \[0, 1\] if it is float, got \[nan, nan\]; "),
    (PHOTOGRAPH[..., 0], ValueError, r"`images` must be of shape .*, or a batch, got \(37, 53\); give RGB"),
    (np.zeros((0, 8, 3)), ValueError, r"`images` must be of shape .*, or a batch, got \(0, 8, 3\); give RGB"),
    ("https://example.org/a.png", ValueError, "`image` must be a local file, got https://example.org/a.png; "),
    ([], ValueError, "`images` must hold a picture, got none; give at least one"),
    ([7], TypeError, "`image` must be a file, a PIL picture or an array, got int; "),
])  # fmt: skip
def test_what_has_no_known_range_or_shape_is_an_error(processor, given, error, message):
    with pytest.raises(error, match=message):
        process(processor, given)


# Batches


def test_list_of_pictures_becomes_a_batch_in_order(processor):
    values = process(processor, [Image.fromarray(PHOTOGRAPH), PHOTOGRAPH[::-1].copy()])
    torch.testing.assert_close(values[0].flip(-2), values[1])
    assert values.shape == (2, 3, 37, 53)


def test_pictures_of_several_sizes_come_back_as_a_list(processor):
    values = processor(images=[PHOTOGRAPH, PHOTOGRAPH[:5]])["pixel_values"]
    assert [tuple(each.shape) for each in values] == [(3, 37, 53), (3, 5, 53)]


# Back to pictures


@pytest.mark.parametrize("array", [
    PHOTOGRAPH, PHOTOGRAPH[:1, :1], np.arange(256 * 3, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8),
], ids=["photograph", "one pixel", "every level"])  # fmt: skip
def test_8_bit_pictures_come_back_unchanged(processor, array):
    (image,) = processor.post_process(process(processor, Image.fromarray(array)))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_clamped_and_rounded_to_the_nearest_level(processor, dtype):
    levels = torch.tensor([-300.0, -0.4, 0.4, 0.6, 127.49, 127.51, 254.4, 254.6, 255.4, 1e6], dtype=dtype)
    reconstruction = (levels / 255).expand(1, 3, 1, -1)
    (image,) = processor.post_process(reconstruction)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 0, 1, 127, 128, 254, 255, 255, 255]


def test_half_precision_and_gradients_are_taken(processor):
    reconstruction = torch.full((2, 3, 4, 5), 0.5, dtype=torch.bfloat16, requires_grad=True)
    images = processor.post_process(reconstruction)
    assert [(image.size, image.getpixel((0, 0))) for image in images] == 2 * [((5, 4), (128, 128, 128))]


def test_channels_keep_their_order(processor):
    reconstruction = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    (image,) = processor.post_process(reconstruction)
    assert image.getpixel((0, 0)) == (255, 128, 0)


# Saving


@pytest.mark.parametrize(("name", "value"), [
    ("do_resize", True), ("do_center_crop", True), ("do_pad", True), ("do_normalize", True), ("do_rescale", False),
    ("rescale_factor", 1.0),
])  # fmt: skip
def test_saved_settings_that_would_change_pictures_are_refused(processor, tmp_path, name, value):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=f"^`{name}` must be .*, got {value}; the model takes RGB of any size in "):
        DPMambaIRImageProcessor.from_pretrained(tmp_path)


def test_saved_processor_reloads_and_gives_the_same_values(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = DPMambaIRImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert torch.equal(process(again, PHOTOGRAPH), process(processor, PHOTOGRAPH))


def test_auto_class_finds_the_processor_of_a_model(processor, tmp_path):
    small_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is DPMambaIRImageProcessor
    model = DPMambaIRModel.from_pretrained(tmp_path)
    with torch.no_grad():
        (image,) = processor.post_process(model(**processor(PHOTOGRAPH, return_tensors="pt")).reconstruction)
    assert image.size == (53, 37)


def test_pictures_of_several_sizes_share_no_tensor():
    pictures = [np.zeros((8, 9, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)]
    rule = r"`images` must be of one size to share a tensor, got 2 sizes such as \(8, 9\) and \(9, 9\); give them one"
    with pytest.raises(ValueError, match=rule):
        DPMambaIRImageProcessor()(pictures, return_tensors="pt")
    assert [each.shape[1:] for each in DPMambaIRImageProcessor()(pictures)["pixel_values"]] == [(8, 9), (9, 9)]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_picture_is_made_of_what_is_not_finite(value):
    with pytest.raises(FloatingPointError, match="`reconstruction` must be finite, got NaN or infinity"):
        DPMambaIRImageProcessor().post_process(torch.full((1, 3, 2, 2), value))
