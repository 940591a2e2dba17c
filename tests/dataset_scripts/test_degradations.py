import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import measure
from skimage.metrics import peak_signal_noise_ratio

from dataset_scripts import degradations
from dataset_scripts.degradation_recipes import from_record, to_record
from dataset_scripts.degradations import (
    KINDS,
    PARAMETERS,
    UNEVEN_SCENE,
    Degradation,
    add_shot_noise,
    apply_degradations,
    compress,
    dim,
    jpeg_quality,
    motion_kernel,
    to_grey,
)
from dataset_scripts.weather import Window, depth_field

from .conftest import draw


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((128, 160, 3), 0.5, np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_result_keeps_shape_dtype_and_range_and_leaves_the_input_alone(kind: str, clean: np.ndarray) -> None:
    before = clean.copy()
    degraded = apply_degradations(clean, [draw(kind, 1.0)])
    assert degraded.shape == clean.shape
    assert degraded.dtype == np.float32
    assert degraded.min() >= 0
    assert degraded.max() <= 1
    assert not np.array_equal(degraded, clean)
    np.testing.assert_array_equal(clean, before)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (23, 2, 3)])
def test_tiny_images_keep_their_shape_under_all_kinds_together(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 0.5, np.float32)
    assert apply_degradations(image, [draw(kind, 1.0) for kind in KINDS]).shape == shape


@pytest.mark.parametrize("kind", KINDS)
def test_severity_zero_is_the_identity(kind: str, clean: np.ndarray) -> None:
    np.testing.assert_array_equal(apply_degradations(clean, [draw(kind, 0.0)]), clean)


@pytest.mark.parametrize("severity", [1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("kind", KINDS)
def test_tiny_severity_changes_next_to_nothing(kind: str, severity: float, clean: np.ndarray) -> None:
    degraded = apply_degradations(clean, [draw(kind, severity)])
    # JPEG and the 8 bits of dim light still round.
    assert np.abs(degraded - clean).mean() < 0.01


def test_empty_record_returns_a_copy(clean: np.ndarray) -> None:
    degraded = apply_degradations(clean, [])
    np.testing.assert_array_equal(degraded, clean)
    assert not np.shares_memory(degraded, clean)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_psnr_falls_with_severity(kind: str, seed: int, clean: np.ndarray) -> None:
    drawn = draw(kind, 1.0, seed)
    psnr = [
        peak_signal_noise_ratio(clean, apply_degradations(clean, [replace(drawn, severity=severity)]), data_range=1)
        for severity in (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
    ]
    assert np.all(np.diff(psnr) < 0), psnr


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_do_not_depend_on_severity(kind: str) -> None:
    mild, strong = draw(kind, 0.1), draw(kind, 0.9)
    assert replace(mild, severity=0.9) == strong
    for name, (low, high) in PARAMETERS[kind].items():
        assert low <= mild.parameters[name] <= high


# Noise


@pytest.mark.parametrize("severity", [0.05, 0.15])
def test_noise_has_the_documented_sigma(severity: float) -> None:
    image = np.full((256, 256, 3), 0.5, np.float32)
    noise = apply_degradations(image, [draw("noise", severity)]) - image
    assert np.std(noise, dtype=np.float64) == pytest.approx(100 * severity / 255, rel=0.01)
    assert abs(np.mean(noise, dtype=np.float64)) < 100 * severity / 255 / 100


def test_noise_of_neighbouring_crops_differs_and_of_one_crop_repeats(grey: np.ndarray) -> None:
    record, size = [draw("noise", 0.2)], (512, 512)
    first = apply_degradations(grey, record, origin=(0, 0), size=size)
    np.testing.assert_array_equal(first, apply_degradations(grey, record, origin=(0, 0), size=size))
    assert not np.array_equal(first, apply_degradations(grey, record, origin=(0, 128), size=size))


# JPEG


def open_pillow_jpeg(pixels: np.ndarray, quality: int, subsampling: str = "4:2:0") -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


def save_as(quality: float, chroma: float) -> Degradation:
    return Degradation("file_jpeg", 1.0, 0, {"quality": quality, "chroma": chroma})


@pytest.mark.parametrize(("severity", "quality"), [(1e-4, 100), (0.25, 45), (0.5, 20), (1.0, 4)])
def test_jpeg_equals_pillows_at_the_documented_quality(severity: float, quality: int, clean: np.ndarray) -> None:
    assert jpeg_quality(severity) == quality
    degraded = apply_degradations(clean, [draw("jpeg", severity)])
    pixels = np.rint(clean * 255).astype(np.uint8)
    np.testing.assert_array_equal(np.rint(degraded * 255).astype(np.uint8), open_pillow_jpeg(pixels, quality))


def test_jpeg_of_a_crop_lies_on_the_grid_of_the_picture(clean: np.ndarray) -> None:
    top, left = 13, 27
    whole = compress(clean, 20)
    crop = compress(clean[top:125, left:155], 20, (top, left))
    # Past the first whole 16-pixel block on each side, and one pixel of chroma interpolation.
    inner = slice(32 - top + 1, 96 - top - 1), slice(32 - left + 1, 128 - left - 1)
    np.testing.assert_array_equal(crop[inner], whole[top:125, left:155][inner])
    assert not np.array_equal(compress(clean[top:125, left:155], 20)[inner], crop[inner])


# Files


@pytest.mark.parametrize(("chroma", "subsampling"), [(0.0, "4:2:0"), (0.74, "4:2:0"), (0.75, "4:4:4")])
@pytest.mark.parametrize("quality", [70.2, 88.0, 100.0])
@pytest.mark.parametrize("kind", [None, "low_light", "haze"])
def test_file_is_pillows_jpeg_of_the_degraded_picture(
    kind: str | None, quality: float, chroma: float, subsampling: str, clean: np.ndarray
) -> None:
    record = [draw(kind, 0.6)] if kind else []
    before = to_bytes(apply_degradations(clean, record))
    saved = to_bytes(apply_degradations(clean, [save_as(quality, chroma), *record]))
    np.testing.assert_array_equal(saved, open_pillow_jpeg(before, round(quality), subsampling))


def test_drawn_files_have_every_quality_from_70_to_100_and_mostly_halved_chroma() -> None:
    drawn = [draw("file_jpeg", 1.0, seed).parameters for seed in range(400)]
    assert {round(parameters["quality"]) for parameters in drawn} == set(range(70, 101))
    assert np.mean([parameters["chroma"] < 0.75 for parameters in drawn]) == pytest.approx(0.75, abs=0.1)


# Grey


def test_grey_equals_pillows(clean: np.ndarray) -> None:
    expected = np.asarray(Image.fromarray(to_bytes(clean)).convert("L")).astype(int)
    made = apply_degradations(clean, [draw("grey", 1.0)])
    # Pillow's weights have 16 bits: a luma near the middle of two levels may fall to the other.
    differences = np.abs(to_bytes(made) - expected[..., None])
    assert differences.max() <= 1
    assert differences.mean() < 0.001
    np.testing.assert_array_equal(to_grey(made), made)
    np.testing.assert_array_equal(to_grey(clean), made)


@pytest.mark.parametrize("kind", [*KINDS, "file_jpeg"])
def test_grey_pictures_stay_grey_under_every_kind(kind: str, clean: np.ndarray) -> None:
    degraded = apply_degradations(clean, [draw("grey", 1.0), draw(kind, 0.7)])
    np.testing.assert_array_equal(degraded[..., 0], degraded[..., 1])
    np.testing.assert_array_equal(degraded[..., 0], degraded[..., 2])


def test_grey_jpeg_is_that_of_a_file_with_one_channel(clean: np.ndarray) -> None:
    grey = to_bytes(to_grey(clean))[..., 0]
    saved = to_bytes(apply_degradations(clean, [draw("grey", 1.0), draw("jpeg", 0.5)]))[..., 0]
    np.testing.assert_array_equal(saved, open_pillow_jpeg(grey, 20, "4:4:4"))


def test_grey_noise_has_the_documented_sigma(grey: np.ndarray) -> None:
    noise = apply_degradations(grey, [draw("grey", 1.0), draw("noise", 0.15)]) - to_grey(grey)
    assert np.std(noise, dtype=np.float64) == pytest.approx(15 / 255, rel=0.02)


def test_grey_haze_is_the_luma_of_coloured_haze(clean: np.ndarray) -> None:
    record = [draw("grey", 1.0), draw("haze", 0.6)]
    coloured = apply_degradations(to_grey(clean), record[1:])
    np.testing.assert_allclose(
        apply_degradations(clean, record)[..., 0], coloured @ np.array([0.299, 0.587, 0.114]), atol=1e-5
    )


# Blur


@pytest.mark.parametrize("severity", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("bend", [-1.0, 0.0, 0.7])
def test_motion_kernel_sums_to_one_is_centred_and_has_the_documented_length(severity: float, bend: float) -> None:
    kernel = motion_kernel(severity, 0.0, bend)
    assert kernel.dtype == np.float32
    assert kernel.min() >= 0
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert measure.centroid(kernel) == pytest.approx((len(kernel) // 2,) * 2, abs=1e-3)
    if bend == 0:
        # At angle 0 the path lies in one row; bilinear weights reach one pixel past its ends.
        columns = np.flatnonzero(kernel.sum(axis=0) > 1e-6)
        assert np.ptp(columns) + 1 == pytest.approx(1 + 20 * severity, abs=2)


def test_bend_curves_the_path() -> None:
    straight, curved = motion_kernel(0.8, 0.0, 0.0), motion_kernel(0.8, 0.0, 1.0)
    assert np.count_nonzero(straight.sum(axis=1) > 1e-6) == 1
    assert np.count_nonzero(curved.sum(axis=1) > 1e-6) > 4


def test_blur_is_the_convolution_of_eq_6(clean: np.ndarray) -> None:
    blur = draw("blur", 0.4, seed=3)
    kernel = motion_kernel(blur.severity, **blur.parameters)
    np.testing.assert_allclose(apply_degradations(clean, [blur]), convolve(clean, kernel), atol=1e-5)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve a picture with a square kernel in float64; beyond its edges it is its reflection."""
    radius = len(kernel) // 2
    padded = np.pad(image.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)), "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, axis=(0, 1))
    return np.einsum("hwcij,ij->hwc", windows, kernel[::-1, ::-1].astype(np.float64))


def test_varied_blur_adds_up_light_along_a_longer_unsteady_path(clean: np.ndarray) -> None:
    blur = draw("blur", 0.4, seed=3)
    varied = blur.parameters | {"stretch": 1.5, "shake": 0.9, "exposure_gamma": 2.2}
    varied |= {"parallax": -0.1, "zoom": 0.3, "roll": 0.3}
    kernel = motion_kernel(0.4, **blur.parameters, stretch=1.5, shake=0.9, seed=blur.seed)
    steady = motion_kernel(0.4, **blur.parameters, stretch=1.5)
    assert len(kernel) == len(steady) > len(motion_kernel(0.4, **blur.parameters))
    assert np.abs(kernel - steady).sum() > 0.5
    degraded = apply_degradations(clean, [replace(blur, parameters=varied)])
    np.testing.assert_allclose(degraded, convolve(clean**2.2, kernel) ** (1 / 2.2), atol=1e-3)


def test_uneven_motion_of_a_flat_scene_is_the_convolution(clean: np.ndarray) -> None:
    path = {"angle": 30.0, "bend": 0.3, "stretch": 1.5, "shake": 0.6}
    uneven = path | {"exposure_gamma": 0.0, "parallax": 1e-6, "zoom": 0.0, "roll": 0.0}
    blurred = convolve(clean, motion_kernel(0.4, **path, seed=3))
    views = apply_degradations(clean, [Degradation("blur", 0.4, 3, uneven)])
    # A view a pixel in place of eight.
    assert np.abs(views - blurred).mean() < 0.02 * np.abs(clean - blurred).mean()


def test_far_parts_move_less_under_parallax() -> None:
    bars = np.tile(np.arange(240) // 4 % 2, (240, 1)).astype(np.float32)[..., None].repeat(3, 2)
    level = {"angle": 0.0, "bend": 0.0, "stretch": 1.0, "shake": 0.0, "exposure_gamma": 0.0}
    blur = Degradation("blur", 0.5, 3, level | {"parallax": 1.0, "zoom": 0.0, "roll": 0.0})
    changed = np.abs(apply_degradations(bars, [blur]) - bars).mean(axis=(1, 2))
    depth = depth_field(3, UNEVEN_SCENE, Window(0, 0, 240, 240, 240, 240)).mean(axis=1)
    assert np.corrcoef(changed, depth)[0, 1] < -0.7


@pytest.mark.parametrize("turn", ["zoom", "roll"])
def test_turning_moves_the_edges_and_not_the_middle(turn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).random((201, 201, 3), np.float32)
    turns = {"zoom": 0.0, "roll": 0.0, "parallax": 1.0} | {turn: 0.3}
    level = {"angle": 0.0, "bend": 0.0, "stretch": 1.0, "shake": 0.0, "exposure_gamma": 0.0}
    flat = {"near": 1.0, "far": 1.0, "tilt": 0.0, "relief": 0.0}
    monkeypatch.setattr(degradations, "UNEVEN_SCENE", flat)  # all of it so far away that it does not move by itself
    turned = apply_degradations(noise, [Degradation("blur", 1.0, 3, level | turns)])
    np.testing.assert_allclose(turned[100, 100], noise[100, 100], atol=1e-5)
    assert np.abs(turned - noise)[95:106, 95:106].mean() < 0.5 * np.abs(turned - noise)[:10].mean()


def test_varied_blur_below_its_bounds_is_the_plain_one(clean: np.ndarray) -> None:
    blur = draw("blur", 0.7)
    below = blur.parameters | {"stretch": 0.3, "shake": -0.5, "exposure_gamma": 0.2}
    below |= {"parallax": -0.1, "zoom": 0.3, "roll": 0.3}
    degraded = apply_degradations(clean, [replace(blur, parameters=below)])
    np.testing.assert_array_equal(degraded, apply_degradations(clean, [blur]))


# Haze


def test_haze_at_zero_depth_is_the_identity(clean: np.ndarray) -> None:
    haze = draw("haze", 0.8)
    flat = haze.parameters | {"near": 0.0, "far": 0.0, "tilt": 0.0, "relief": 0.0}
    np.testing.assert_array_equal(apply_degradations(clean, [replace(haze, parameters=flat)]), clean)


def test_haze_attenuates_exponentially_towards_the_airlight(clean: np.ndarray) -> None:
    haze = draw("haze", 0.6)
    flat = haze.parameters | {"near": 0.5, "far": 0.5, "tilt": 0.0, "relief": 0.0}
    transmission = np.exp(-2.5 * 0.6 * 0.5)
    airlight = np.clip(flat["airlight"] + np.array((flat["red"], 0, flat["blue"])), 0, 1)
    expected = clean * transmission + airlight * (1 - transmission)
    np.testing.assert_allclose(apply_degradations(clean, [replace(haze, parameters=flat)]), expected, atol=1e-6)


def test_depth_grows_from_bottom_to_top() -> None:
    window = Window(0, 0, 200, 300, 200, 300)
    depth = depth_field(5, draw("haze", 0.5).parameters, window)
    assert depth.min() >= 0
    assert depth.max() <= 1
    assert depth[:20].mean() > depth[-20:].mean()


def test_haze_of_a_crop_equals_the_crop_of_haze(clean: np.ndarray) -> None:
    record = [draw("haze", 0.7)]
    whole = apply_degradations(clean, record)
    crop = apply_degradations(clean[37:101, 51:115], record, origin=(37, 51), size=clean.shape[:2])
    np.testing.assert_array_equal(crop, whole[37:101, 51:115])


# Low light


def test_dimming_halves_the_light_once_a_stop_and_raises_it_to_gamma() -> None:
    image = np.array([[[0.2, 0.5, 1.0]]], np.float32)
    dimmed = dim(image, 0.5, {"gamma": 1.0, "red": 0.5, "blue": -0.5})
    expected = np.array([0.2**1.5 * 2**-2.25, 0.5**1.5 / 4, 2**-1.75])
    np.testing.assert_allclose(dimmed[0, 0], expected, rtol=1e-5)


def test_lamps_alone_lose_fewer_stops_but_never_grow_brighter() -> None:
    image = np.array([[[0.2, 0.5, 0.95], [1.0, 0.1, 0.2]]], np.float32)
    exposure = {"gamma": 0.0, "red": 0.0, "blue": 0.0}
    dark = dim(image, 0.75, exposure)
    for lamps, stops in ((-5.0, 3), (2.0, 1), (6.0, 0)):
        dimmed = dim(image, 0.75, exposure | {"lamps": lamps})
        np.testing.assert_array_equal(dimmed[0, 0], dark[0, 0])
        np.testing.assert_allclose(dimmed[0, 1], image[0, 1] / 2**stops, rtol=1e-6)


@pytest.mark.parametrize("level", [0.02, 0.1, 0.4])
def test_shot_noise_variance_is_linear_in_the_light(level: float) -> None:
    image = np.full((256, 256, 3), level, np.float32)
    noise = add_shot_noise(image, 0.8, np.random.default_rng(0)) - image
    expected = np.sqrt(5e-4 * 0.8 * level + (4e-3 * 0.8) ** 2)
    assert np.std(noise, dtype=np.float64) == pytest.approx(expected, rel=0.01)


def test_low_light_pictures_are_stored_in_eight_bits(clean: np.ndarray) -> None:
    degraded = apply_degradations(clean, [draw("low_light", 0.8)])
    np.testing.assert_array_equal(degraded, np.rint(degraded * 255) / np.float32(255))


# Composition and records


def test_order_of_the_record_does_not_matter(clean: np.ndarray) -> None:
    record = [draw(kind, 0.4, seed) for seed, kind in enumerate(KINDS)]
    np.testing.assert_array_equal(
        apply_degradations(clean, record[::-1]), apply_degradations(clean, record[3:] + record[:3])
    )


def test_composition_follows_eq_6_with_the_noise_before_the_codec(clean: np.ndarray) -> None:
    order = ("haze", "rain", "snow", "blur", "noise", "jpeg")
    drawn = {kind: draw(kind, 0.3, seed) for seed, kind in enumerate(order)}
    step_by_step = clean
    for kind in order:
        step_by_step = apply_degradations(step_by_step, [drawn[kind]])
    together = apply_degradations(clean, [drawn[kind] for kind in KINDS if kind in drawn])
    np.testing.assert_array_equal(together, step_by_step)


def test_low_light_dims_the_scene_before_the_airlight_is_added(clean: np.ndarray) -> None:
    haze, low_light = draw("haze", 0.5, 1), draw("low_light", 0.5, 2)
    dimmed = dim(clean, low_light.severity, low_light.parameters)
    expected = apply_degradations(dimmed, [haze])
    # What remains is the sensor's noise.
    assert np.abs(apply_degradations(clean, [haze, low_light]) - expected).mean() < 0.02


@pytest.mark.parametrize("is_varied", [False, True])
def test_record_replays_bit_equal_after_json(is_varied: bool, clean: np.ndarray) -> None:
    drawn = tuple(draw(kind, 0.37, seed, is_varied=is_varied) for seed, kind in enumerate(PARAMETERS))
    record = to_record(drawn)
    assert " " not in record
    assert len(json.loads(record)) == len(PARAMETERS)
    assert from_record(record) == drawn
    np.testing.assert_array_equal(apply_degradations(clean, from_record(record)), apply_degradations(clean, drawn))


def test_threads_do_not_change_the_result(clean: np.ndarray) -> None:
    record = [draw(kind, 0.6, seed) for seed, kind in enumerate(KINDS)]
    threads = cv2.getNumThreads()
    results = []
    for count in (1, 2):
        cv2.setNumThreads(count)
        results.append(apply_degradations(clean, record))
    cv2.setNumThreads(threads)
    np.testing.assert_array_equal(*results)


# Errors


def test_unknown_kind_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"`kind` must be one of haze, rain, .*file_jpeg, got 'fog'; correct its spelling"
    ):
        draw("fog", 0.5)


@pytest.mark.parametrize("severity", [-0.1, 1.01, float("nan")])
def test_severity_outside_its_range_is_rejected(severity: float) -> None:
    with pytest.raises(ValueError, match=rf"`severity` must be in \[0, 1\], got {severity}; 0 is clean"):
        draw("noise", severity)


def test_negative_seed_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"`seed` must be at least 0, got -1; use any non-negative integer"):
        Degradation("noise", 0.5, -1, {})


def test_missing_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"`parameters` of blur must be \['angle', 'bend'\], got \['angle'\]; draw"):
        Degradation("blur", 0.5, 0, {"angle": 3.0})


def test_same_kind_twice_is_rejected(grey: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`record` must hold each kind at most once, got rain, rain; keep one"):
        apply_degradations(grey, [draw("rain", 0.5), draw("rain", 0.0)])


def test_eight_bit_images_are_rejected() -> None:
    with pytest.raises(TypeError, match=r"`clean` must be float32, got uint8; divide 8-bit values"):
        apply_degradations(np.zeros((8, 8, 3), np.uint8), [])


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (8, 8, 4), (0, 8, 3)])
def test_images_of_another_shape_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`clean` must be \(H, W, 3\), got \(.*\); convert it to RGB, channels last"):
        apply_degradations(np.zeros(shape, np.float32), [])


@pytest.mark.parametrize("value", [-0.5, 255.0, float("nan")])
def test_values_outside_their_range_are_rejected(value: float) -> None:
    with pytest.raises(
        ValueError, match=rf"`clean` must be in \[0, 1\], got \[.*{value:g}.*\]; scale or clip it first"
    ):
        apply_degradations(np.full((8, 8, 3), value, np.float32), [])


@pytest.mark.parametrize("origin", [(-1, 0), (5, 0), (0, 100)])
def test_crops_outside_the_picture_are_rejected(origin: tuple[int, int]) -> None:
    with pytest.raises(
        ValueError, match=r"`origin` must place the 8 x 8 crop inside the 12 x 20 picture, got \(.*\); "
    ):
        apply_degradations(np.zeros((8, 8, 3), np.float32), [], origin=origin, size=(12, 20))
