import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.measure import block_reduce

from dataset_scripts.unseen import UNSEEN, add_raindrops, pixelate

CLEAN = data.astronaut()[:180, :240].astype(np.float32) / 255


def draw(seed=0):
    return np.random.default_rng(seed)


def test_pixelation_is_a_mean_over_squares_that_is_repeated():
    means = block_reduce(CLEAN, (2, 2, 1), np.mean)
    expected = Image.fromarray(np.rint(means * 255).astype(np.uint8)).resize((240, 180), Image.Resampling.NEAREST)
    np.testing.assert_allclose(pixelate(CLEAN, draw()) * 255, np.asarray(expected), rtol=0, atol=0.51)


def test_odd_last_rows_and_columns_are_squares_of_their_own():
    odd = CLEAN[:5, :7]
    found = pixelate(odd, draw())
    assert found.shape == odd.shape
    np.testing.assert_allclose(found[4, 6], odd[4, 6], atol=1e-6)
    np.testing.assert_allclose(found[4, :2], odd[4, :2].mean(0, keepdims=True).repeat(2, 0), atol=1e-6)


def test_raindrops_cover_a_part_of_the_picture_and_leave_the_rest():
    rainy = add_raindrops(CLEAN, draw())
    changed = (rainy != CLEAN).any(2).mean()
    assert 0.03 < changed < 0.4
    assert np.abs(rainy - CLEAN).max() > 0.2


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("shape", [(180, 240), (31, 17), (1, 1)])
def test_pictures_keep_shape_type_and_range_and_replay(name, shape):
    clean = CLEAN[: shape[0], : shape[1]]
    kept = clean.copy()
    found = UNSEEN[name](clean, draw(3))
    assert (found.shape, found.dtype) == (clean.shape, np.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(found, UNSEEN[name](clean, draw(3)))
    np.testing.assert_array_equal(clean, kept)


def test_other_draws_place_other_drops():
    assert (add_raindrops(CLEAN, draw(1)) != add_raindrops(CLEAN, draw(2))).any()
