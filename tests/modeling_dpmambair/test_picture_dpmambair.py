"""The picture that holds everything, and the values of arrays."""

import numpy as np
import pytest
import torch

from modeling_dpmambair import Picture, read_picture
from modeling_dpmambair.picture_dpmambair import read_values
from tests.restoring import photograph


def make(levels, alpha=None):
    """Return a picture of levels (H, W), of each channel the same, and of alpha (H, W)."""
    pixels = torch.tensor(levels, dtype=torch.float32)[None].expand(3, -1, -1) / 255
    return Picture(pixels, None if alpha is None else torch.tensor(alpha, dtype=torch.float32))


# Pictures


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_image_is_for_showing(mode):
    given = photograph(mode=mode)
    shown = read_picture(given).image
    assert shown.mode == mode
    assert shown == given
    assert read_picture(given).size == given.size


def test_levels_are_the_nearest():
    picture = Picture(torch.tensor([0, 0.4, 0.6, 254.4, 254.6, 255]).expand(3, 1, -1) / 255)
    assert picture.levels(8)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]
    assert picture.levels(16)[0, :, 2].tolist() == [0, 103, 154, 65381, 65432, 65535]


def test_transparent_pixels_are_filled_with_the_mean_of_the_smallest_block_that_shows_something():
    levels = [[10, 99, 50, 99], [20, 99, 99, 99], [99, 99, 99, 99]]
    alpha = [[1, 0, 0.5, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    filled = make(levels, alpha).fill_hidden().mul(255).round().long()
    # Of 2 x 2: 15, the mean of 10 and 20, and 50 by itself. Below them of 4 x 4: the mean of all three.
    assert filled[1].tolist() == [[10, 15, 50, 50], [20, 15, 50, 50], [27, 27, 27, 27]]


@pytest.mark.parametrize("alpha", [None, [[1.0, 0.1]], [[0.0, 0.0]]])
def test_without_hidden_pixels_or_visible_ones_nothing_is_filled(alpha):
    picture = make([[3, 7]], alpha)
    expected = torch.zeros(3, 1, 2) if alpha == [[0.0, 0.0]] else picture.pixels
    assert torch.equal(picture.fill_hidden(), expected)


def test_restored_values_are_clamped_and_transparent_ones_stay():
    picture = Picture(torch.rand(3, 1, 3), torch.tensor([[1, 0, 0.5]]))
    restored = picture.with_pixels(torch.tensor([[[-1, 0.5, 2]], [[0.1, 0.5, 0.2]], [[0, 0.5, 1]]]).double())
    assert restored.pixels.dtype == torch.float32
    torch.testing.assert_close(restored.pixels[:, 0, 0], torch.tensor([0, 0.1, 0]))
    torch.testing.assert_close(restored.pixels[:, 0, 2], torch.tensor([1, 0.2, 1]))
    assert torch.equal(restored.pixels[:, 0, 1], picture.pixels[:, 0, 1])


def test_picture_without_colour_takes_the_mean_of_its_channels():
    restored = make([[9, 9]]).with_pixels(torch.tensor([0.1, 0.2, 0.6]).view(3, 1, 1).expand(3, 1, 2))
    torch.testing.assert_close(restored.pixels, torch.full((3, 1, 2), 0.3))


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
