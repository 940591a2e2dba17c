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


def test_grey_picture_has_three_equal_channels(processor):
    values = process(processor, Image.fromarray(PHOTOGRAPH).convert("L"))
    assert torch.equal(values[:, 0], values[:, 1])
    assert torch.equal(values[:, 0], values[:, 2])


def test_palette_colours_are_looked_up(processor):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    expected = torch.tensor([[200, 10], [100, 20], [50, 30]]).view(1, 3, 1, 2) / 255
    torch.testing.assert_close(process(processor, image), expected, rtol=0, atol=1e-7)


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
