import math

import numpy as np
from PIL import Image

from restoration_metrics.figures import draw_gains, join_pictures


def test_bars_show_the_gains_in_order():
    axes = draw_gains({"haze": 3.25, "rain": -1.5, "snow": math.inf}, "PSNR gain (dB)").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [3.25, -1.5, 0]
    assert [text.get_text() for text in axes.texts] == ["+3.25", "-1.50", "+inf"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["haze", "rain", "snow"]


def test_joined_pictures_keep_their_pixels_on_white():
    one, other = np.full((5, 7, 3), 10, np.uint8), np.full((3, 2, 3), 20, np.uint8)
    side_by_side = np.asarray(join_pictures([Image.fromarray(one), Image.fromarray(other)]))
    assert side_by_side.shape == (5, 7 + 4 + 2, 3)
    assert (side_by_side[:, :7] == one).all()
    assert (side_by_side[:3, 11:] == other).all()
    assert (side_by_side[:, 7:11] == 255).all()
    below = join_pictures([Image.fromarray(one), Image.fromarray(other)], vertical=True)
    assert below.size == (7, 5 + 4 + 3)
