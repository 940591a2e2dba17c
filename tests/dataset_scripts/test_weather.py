"""Rain and snow: drawn particles, as they look in the benchmarks and as they vary in training."""

from dataclasses import replace

import numpy as np
import pytest
from skimage import measure
from skimage.metrics import peak_signal_noise_ratio

from dataset_scripts.degradations import PARAMETERS, VARIED_PARAMETERS, apply_degradations
from dataset_scripts.weather import PLAIN, RAIN_LAYERS, Strokes, Window, draw_strokes

from .conftest import draw


@pytest.mark.parametrize("kind", ["rain", "snow"])
def test_particles_of_a_crop_lie_where_they_do_in_the_picture(kind: str) -> None:
    # Wider than the squares that hold random particles of their own.
    image = np.zeros((320, 600, 3), np.float32)
    record = [draw(kind, 0.7)]
    whole = apply_degradations(image, record)
    crop = apply_degradations(image[200:300, 210:330], record, origin=(200, 210), size=(320, 600))
    # OpenCV blurs by a Fourier transform, whose rounding depends on the size.
    np.testing.assert_allclose(crop, whole[200:300, 210:330], atol=1e-6)
    assert crop.std() > 0.05


@pytest.mark.parametrize("kind", ["rain", "snow"])
def test_particles_only_brighten_a_dark_picture_up_to_their_own_brightness(kind: str) -> None:
    image = np.zeros((96, 96, 3), np.float32)
    weather = draw(kind, 1.0)
    degraded = apply_degradations(image, [weather])
    assert degraded.max() <= weather.parameters["brightness"] + 1e-6
    assert degraded.min() == pytest.approx(weather.parameters["veil"] * weather.parameters["brightness"], abs=0.05)


@pytest.mark.parametrize("kind", VARIED_PARAMETERS)
def test_varied_ranges_hold_the_plain_ones(kind: str, clean: np.ndarray) -> None:
    for name, (low, high) in PARAMETERS[kind].items():
        assert VARIED_PARAMETERS[kind][name][0] <= low <= high <= VARIED_PARAMETERS[kind][name][1]
    blur = {"stretch": 1.0, "shake": 0.0, "exposure_gamma": 1.0, "parallax": 0.0, "zoom": 0.1, "roll": 0.1}
    unsaid = {"haze": {}, "rain": PLAIN, "snow": PLAIN, "blur": blur, "low_light": {"lamps": 0.0}}
    assert VARIED_PARAMETERS[kind].keys() - PARAMETERS[kind].keys() == unsaid[kind].keys()
    plain = draw(kind, 0.7)
    stated = replace(plain, parameters=plain.parameters | unsaid[kind])
    np.testing.assert_array_equal(apply_degradations(clean, [stated]), apply_degradations(clean, [plain]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["haze", "rain", "snow"])
def test_varied_weather_of_a_crop_is_that_of_the_picture(kind: str, seed: int) -> None:
    image = np.zeros((320, 600, 3), np.float32)
    record = [draw(kind, 0.8, seed, is_varied=True)]
    whole = apply_degradations(image, record)
    crop = apply_degradations(image[200:300, 210:330], record, origin=(200, 210), size=(320, 600))
    np.testing.assert_allclose(crop, whole[200:300, 210:330], atol=2e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", VARIED_PARAMETERS)
def test_psnr_falls_with_the_severity_of_what_is_varied(kind: str, seed: int, clean: np.ndarray) -> None:
    drawn = draw(kind, 1.0, seed, is_varied=True)
    psnr = [
        peak_signal_noise_ratio(clean, apply_degradations(clean, [replace(drawn, severity=severity)]), data_range=1)
        for severity in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
    ]
    assert np.all(np.diff(psnr) < 0), psnr


def test_light_that_hides_nothing_is_added(clean: np.ndarray) -> None:
    rain = draw("rain", 0.5, is_varied=True)
    added = replace(rain, parameters=rain.parameters | {"hide": 0.0, "brightness": 1.0})
    covering = replace(rain, parameters=rain.parameters | {"hide": 1.0, "brightness": 1.0})
    # On black nothing can be hidden: what is there is the light alone.
    light = apply_degradations(np.zeros_like(clean), [added])
    np.testing.assert_array_equal(light, apply_degradations(np.zeros_like(clean), [covering]))
    np.testing.assert_allclose(apply_degradations(clean, [added]), np.minimum(clean + light, 1), atol=1e-6)
    np.testing.assert_allclose(apply_degradations(clean, [covering]), clean * (1 - light) + light, atol=1e-6)


@pytest.mark.parametrize("kind", ["rain", "snow"])
def test_a_veil_below_zero_is_none(clean: np.ndarray, kind: str) -> None:
    drawn = draw(kind, 0.9, is_varied=True)
    below, none, some = (
        apply_degradations(clean, [replace(drawn, parameters=drawn.parameters | {"veil": veil})])
        for veil in (-0.3, 0.0, 0.3)
    )
    np.testing.assert_array_equal(below, none)
    assert some.min() > none.min() + 0.05


def test_gain_saturates_and_nearness_moves_particles_to_the_front() -> None:
    black = np.zeros((128, 160, 3), np.float32)
    snow = draw("snow", 0.7, is_varied=True)
    plain = snow.parameters | PLAIN | {"veil": 0.0, "brightness": 1.0, "opacity": 1.0, "softness": 0.7}

    def show(**changed: float) -> np.ndarray:
        return apply_degradations(black, [replace(snow, parameters=plain | changed)])

    assert (show(gain=2.0) >= show() - 1e-6).all()
    assert np.mean(show(gain=2.0) > 0.999) > 2 * np.mean(show() > 0.999)
    # Near flakes are wide: the same light lies in fewer, larger spots.
    spots = [measure.label(show(nearness=power)[..., 0] > 0.3).max() for power in (-1.0, 1.0)]
    assert spots[0] > spots[1]


@pytest.mark.parametrize("kind", ["rain", "snow"])
def test_defocus_spreads_the_light_of_near_particles(kind: str) -> None:
    black = np.zeros((192, 256, 3), np.float32)
    weather = draw(kind, 0.5, is_varied=True)
    plain = weather.parameters | PLAIN | {"veil": 0.0, "brightness": 1.0, "opacity": 0.7, "density": 0.6}

    def show(defocus: float) -> np.ndarray:
        return apply_degradations(black, [replace(weather, parameters=plain | {"defocus": defocus})])[..., 0]

    np.testing.assert_array_equal(show(-1.0), show(0.0))
    sharp, soft = show(0.0), show(3.0)
    # Light is spread, not lost.
    assert soft.mean() == pytest.approx(sharp.mean(), rel=0.01)
    assert np.abs(np.diff(soft)).mean() < 0.9 * np.abs(np.diff(sharp)).mean()


def test_strokes_point_along_the_angle_of_fall() -> None:
    window = Window(0, 0, 256, 256, 256, 256)
    layer = Strokes(density=20, length=30, thickness=1, opacity=1.0, softness=1.5)
    for angle in (-35.0, 0.0, 20.0):
        hidden = draw_strokes(layer, angle, (7, 0), window).astype(np.float64)
        # The structure tensor's weak direction is the strokes' own.
        slope_y, slope_x = np.gradient(hidden)
        twist = np.arctan2(2 * (slope_x * slope_y).sum(), (slope_x**2).sum() - (slope_y**2).sum()) / 2
        assert np.degrees(-twist) == pytest.approx(angle, abs=4)


def test_stroke_counts_follow_the_density() -> None:
    window = Window(0, 0, 512, 512, 512, 512)
    layer = Strokes(density=4, length=2, thickness=1, opacity=1.0, softness=0.4)
    hidden = draw_strokes(layer, 0.0, (3, 1), window)
    assert measure.label(hidden > 0.05).max() == pytest.approx(4 * 512**2 / 10_000, rel=0.15)


def test_dense_layers_stay_between_nothing_and_everything() -> None:
    layer = RAIN_LAYERS[1]._replace(density=4000, opacity=1.0)
    hidden = draw_strokes(layer, 10.0, (1, 1), Window(0, 0, 64, 64, 64, 64))
    assert hidden.min() >= 0
    assert hidden.max() <= 1
