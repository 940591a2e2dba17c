"""Geometric transforms against Pillow, OpenCV and torchvision."""

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from dataset_scripts.transforms import (
    Orientation,
    Window,
    center_window,
    crop,
    grow_window,
    orient,
    pad_to_patch,
    sample_orientation,
    sample_window,
    to_float,
    to_tensor,
    unorient_window,
)

PICTURE = np.random.default_rng(0).integers(256, size=(11, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("quarter_turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_orientation_mirrors_then_turns_as_pillow_does(flip, quarter_turns):
    expected = Image.fromarray(PICTURE)
    if flip:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    expected = expected.rotate(90 * quarter_turns, expand=True)
    np.testing.assert_array_equal(orient(PICTURE, Orientation(flip, quarter_turns)), np.asarray(expected))


def test_all_eight_orientations_are_drawn_equally_often():
    rng = np.random.default_rng(0)
    drawn = [sample_orientation(rng) for _ in range(8000)]
    counts = [drawn.count(Orientation(flip, turns)) for flip in (False, True) for turns in range(4)]
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(counts, 1000, atol=150)


def test_orienting_and_cropping_copy_nothing():
    view = crop(orient(PICTURE, Orientation(True, 1)), Window(2, 3, 4, 5))
    assert np.shares_memory(view, PICTURE)


@pytest.mark.parametrize("quarter_turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_window_of_an_oriented_picture_is_found_in_the_picture_as_it_was(flip, quarter_turns):
    orientation, window = Orientation(flip, quarter_turns), Window(2, 5, 4, 3)
    oriented = orient(PICTURE, orientation)
    stored = unorient_window(window, orientation, *oriented.shape[:2])
    np.testing.assert_array_equal(orient(crop(PICTURE, stored), orientation), crop(oriented, window))


@pytest.mark.parametrize("patch_size", [12, 17, 20, 40])
def test_small_picture_is_reflected_as_opencv_does(patch_size):
    bottom, right = max(patch_size - 11, 0), max(patch_size - 17, 0)
    expected = cv2.copyMakeBorder(PICTURE, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
    np.testing.assert_array_equal(pad_to_patch(PICTURE, patch_size), expected)


def test_single_pixel_is_padded_by_repeating_it():
    np.testing.assert_array_equal(pad_to_patch(PICTURE[:1, :1], 3), np.tile(PICTURE[:1, :1], (3, 3, 1)))


def test_large_picture_is_not_padded():
    assert pad_to_patch(PICTURE, 11) is PICTURE


def test_windows_reach_every_position_and_stay_inside():
    rng = np.random.default_rng(0)
    drawn = {sample_window(11, 17, 8, rng) for _ in range(1000)}
    assert drawn == {Window(top, left, 8, 8) for top in range(4) for left in range(10)}


def test_patch_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match="`patch_size` must be at most the picture's shorter side 11, got 12; pad"):
        sample_window(11, 17, 12, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("window", "margin", "step", "expected"),
    [
        (Window(10, 20, 30, 30), 5, 1, Window(5, 15, 40, 40)),
        (Window(10, 20, 30, 30), 0, 16, Window(0, 16, 48, 48)),
        (Window(16, 32, 32, 32), 0, 16, Window(16, 32, 32, 32)),
        (Window(16, 32, 32, 32), 1, 16, Window(0, 16, 64, 64)),
        (Window(0, 80, 20, 20), 9, 1, Window(0, 71, 29, 29)),
        (Window(70, 70, 30, 30), 2, 16, Window(64, 64, 36, 36)),
    ],
)
def test_window_grows_by_the_margin_to_the_grid_within_the_picture(window, margin, step, expected):
    assert grow_window(window, margin, 100, 100, step) == expected


@pytest.mark.parametrize("size", [(3, 5), (5, 9), (30, 7)])
def test_center_window_is_torchvisions_center_crop(size):
    rows, columns = min(size[0], 11), min(size[1], 17)
    expected = torchvision.transforms.functional.center_crop(
        torch.from_numpy(PICTURE).permute(2, 0, 1), (rows, columns)
    )
    np.testing.assert_array_equal(crop(PICTURE, center_window(11, 17, *size)), expected.permute(1, 2, 0))


def test_tensor_is_torchvisions_and_owns_its_memory():
    scaled = to_float(PICTURE)
    tensor = to_tensor(scaled)
    torch.testing.assert_close(tensor, torchvision.transforms.functional.to_tensor(PICTURE), rtol=0, atol=0)
    assert tensor.is_contiguous()
    scaled[:] = 0
    assert tensor.max() == PICTURE.max() / 255
