import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from restoration_metrics import psnr
from restoration_metrics.pictures import measure_pictures


def test_pictures_of_mixed_sizes_and_types_are_measured_pair_by_pair():
    clean = [data.astronaut()[:20, :31], data.coffee()[:17, :12]]
    restored = [picture // 2 for picture in clean]
    expected = [peak_signal_noise_ratio(one, other) for one, other in zip(clean, restored, strict=True)]
    mixed = [Image.fromarray(restored[0]), restored[1]], [clean[0], Image.fromarray(clean[1])]
    assert measure_pictures(psnr, *mixed) == pytest.approx(expected, abs=1e-4)


def test_lists_of_different_lengths_are_refused():
    picture = np.zeros((12, 12, 3), np.uint8)
    with pytest.raises(ValueError, match="`restored` must hold as many pictures as `clean`, 2, got 1; pair them"):
        measure_pictures(psnr, [picture], [picture, picture])


def test_other_depths_are_refused():
    picture = np.zeros((12, 12, 3), np.float32)
    with pytest.raises(TypeError, match="pictures must be 8 bit, got float32; round them"):
        measure_pictures(psnr, [picture], [picture])


def test_grey_pictures_are_refused():
    picture = Image.new("L", (12, 12))
    with pytest.raises(ValueError, match=r"must be a batch of RGB images .*, got \(1, 1, 12, 12\)"):
        measure_pictures(psnr, [picture], [picture])
