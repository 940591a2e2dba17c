import math

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from restoration_metrics.scores import Scorer, compare

CLEAN = data.astronaut()[:40, :52]
RESTORED = CLEAN // 2


def test_numbers_are_of_the_whole_picture_and_carry_no_rounding():
    found = Scorer()(Image.fromarray(RESTORED), Image.fromarray(CLEAN))
    assert list(found) == ["psnr", "ssim", "psnr_y", "ssim_y"]
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(CLEAN, RESTORED), abs=1e-5)
    # Half of the levels are half of the luma above black, which is 16.
    assert found["psnr_y"] > found["psnr"]


def test_border_is_left_out():
    inside = np.s_[5:-5, 5:-5]
    damaged = CLEAN.copy()
    damaged[:5] = 0
    damaged[inside] = RESTORED[inside]
    found = Scorer(border=5)(Image.fromarray(damaged), Image.fromarray(CLEAN))
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(CLEAN[inside], RESTORED[inside]), abs=1e-5)


def test_border_that_leaves_nothing_is_refused():
    picture = Image.fromarray(CLEAN)
    rule = "`border` must leave something of a picture of 52 x 40 pixels, got 20; cut off less"
    with pytest.raises(ValueError, match=rule):
        Scorer(border=20)(picture, picture)


def test_grey_and_unequal_pictures_are_refused():
    with pytest.raises(ValueError, match="`clean` must have the shape of `restored`"):
        Scorer()(Image.fromarray(CLEAN), Image.fromarray(CLEAN[1:]))


def test_comparison_holds_before_after_and_gain():
    scores = {"degraded": {"psnr": 20.0, "ssim": 0.5}, "ours": {"psnr": 21.5, "ssim": None}}
    assert compare(scores, "ours") == {
        "psnr_degraded": 20.0,
        "psnr_restored": 21.5,
        "psnr_gain": 1.5,
        "ssim_degraded": 0.5,
        "ssim_restored": None,
        "ssim_gain": None,
    }


def test_what_stays_identical_gains_nothing():
    same = {"psnr": math.inf, "ssim": 1.0}
    assert compare({"degraded": same, "ours": same}, "ours")["psnr_gain"] == 0
