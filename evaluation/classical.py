"""Classical restorations, learnt from nothing: what a network must beat on the degradation that each was made for.

Each is told the kind of degradation. Its settings are those of the publication or of the library's own example, fixed
here before any test picture was looked at; but shifted JPEG compresses with the quality 20 of the test sets, and so
knows more than the others.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from skimage import exposure, restoration

Restore = Callable[[np.ndarray], np.ndarray]


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Smooth values where the guide is smooth, and keep their edges where it has edges (He et al. 2013).

    Args:
        guide: (H, W), in [0, 1].
        values: (H, W).
        radius: half of the window's side, pixels; windows are reflected at the border.
        epsilon: variance of the guide below which it counts as smooth.

    Returns:
        The smoothed values, (H, W).
    """

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_values = mean(guide), mean(values)
    covariance = mean(guide * values) - mean_guide * mean_values
    slope = covariance / (mean(guide * guide) - mean_guide**2 + epsilon)
    return mean(slope) * guide + mean(mean_values - slope * mean_guide)


def remove_haze(hazy: np.ndarray) -> np.ndarray:
    """Remove haze by the dark channel prior: in clear air some colour is dark nearly everywhere (He et al. 2011)."""

    def darkest(image: np.ndarray) -> np.ndarray:
        return cv2.erode(image.min(2), np.ones((15, 15)))

    dark = darkest(hazy)
    haziest = np.argsort(dark, axis=None)[-max(1, dark.size // 1000) :]
    airlight = max(hazy.reshape(-1, 3)[haziest], key=np.sum)
    transmission = 1 - 0.95 * darkest(hazy / np.maximum(airlight, 1 / 255))
    transmission = guided_filter(cv2.cvtColor(np.float32(hazy), cv2.COLOR_RGB2GRAY), transmission, 60, 1e-3)
    return (hazy - airlight) / np.maximum(transmission, 0.1)[..., None] + airlight


def equalize_lightness(dark: np.ndarray) -> np.ndarray:
    """Spread the lightness L of Lab within tiles, without amplifying noise beyond a limit (CLAHE)."""
    lab = cv2.cvtColor(_to_levels(dark), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) / 255


def brighten(dark: np.ndarray) -> np.ndarray:
    """Brighten by a fixed gamma."""
    return exposure.adjust_gamma(dark, 1 / 2.2)


def average_patches(noisy: np.ndarray) -> np.ndarray:
    """Average similar patches (non-local means)."""
    sigma = _estimate_noise(noisy)
    options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True, "channel_axis": 2}
    return restoration.denoise_nl_means(noisy, h=0.6 * sigma, sigma=sigma, **options)


def match_blocks(noisy: np.ndarray) -> np.ndarray:
    """Filter groups of similar blocks together (BM3D), by the authors' own profile, thresholding and Wiener filter.

    Raises:
        ImportError: the package `bm3d` is missing.
    """
    try:
        from bm3d import BM3DProfile, bm3d, bm3d_rgb
    except ImportError as error:
        raise ImportError("`bm3d` must be installed for BM3D, got none; run pip install bm3d") from error
    sigma, profile = _estimate_noise(noisy), BM3DProfile()
    profile.num_threads = 1  # several add up in an order of their own each time, and so never quite to the same
    # The package scales each channel of its colour space by its range: a grey picture's chroma has none.
    if (noisy == noisy[..., :1]).all():
        return np.repeat(bm3d(noisy[..., 0], sigma, profile)[..., None], 3, axis=2)
    return bm3d_rgb(noisy, sigma, profile)


def _estimate_noise(noisy: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a black picture has no details, and their deviation is nan
        sigma = restoration.estimate_sigma(noisy, average_sigmas=True, channel_axis=2)
    # A level at least: both filters divide by the deviation.
    return sigma if sigma > 1 / 255 else 1 / 255


def take_medians(spotted: np.ndarray) -> np.ndarray:
    """Replace each value by the median around it."""
    return cv2.medianBlur(_to_levels(spotted), 5) / 255


def smooth_by_itself(streaky: np.ndarray) -> np.ndarray:
    """Smooth each channel, guided by itself: streaks and flakes are fainter than edges."""
    return np.dstack([guided_filter(channel, channel, 4, 0.02) for channel in np.moveaxis(streaky, 2, 0)])


# Of a camera's path nothing is known but that it is short: the square of scikit-image's examples.
BLUR_KERNEL = np.full((5, 5), 1 / 25)


def filter_frequencies(blurred: np.ndarray) -> np.ndarray:
    """Divide by the blur's spectrum where it is not small (Wiener, regularised by the Laplacian)."""
    return np.dstack([restoration.wiener(channel, BLUR_KERNEL, 0.1) for channel in np.moveaxis(blurred, 2, 0)])


def deconvolve(blurred: np.ndarray) -> np.ndarray:
    """Look for the picture that, blurred, explains the one that was given (Richardson-Lucy)."""
    return np.dstack([restoration.richardson_lucy(channel, BLUR_KERNEL, 5) for channel in np.moveaxis(blurred, 2, 0)])


def shift_blocks(blocky: np.ndarray) -> np.ndarray:
    """Compress again with the grid of blocks at each of its 64 places, and average (Nosratinia 2001)."""
    levels, (height, width) = cv2.cvtColor(_to_levels(blocky), cv2.COLOR_RGB2BGR), blocky.shape[:2]
    total = np.zeros(blocky.shape)
    for top, left in np.ndindex(8, 8):
        moved = cv2.copyMakeBorder(levels, top, 0, left, 0, cv2.BORDER_REFLECT_101)
        _, file = cv2.imencode(".jpg", moved, [cv2.IMWRITE_JPEG_QUALITY, 20])
        total += cv2.imdecode(file, cv2.IMREAD_COLOR_RGB)[top : top + height, left : left + width]
    return total / (64 * 255)


def _to_levels(picture: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Classical:
    """A classical restoration.

    Attributes:
        name: in tables.
        settings: all that it could have been tuned by.
        tasks: the kinds that it is meant for, some of `KINDS`.
        restore: maps a picture (H, W, 3), RGB in [0, 1], float64, to another, perhaps outside the range.
    """

    name: str
    settings: str
    tasks: tuple[str, ...]
    restore: Restore

    def __call__(self, degraded: Image.Image) -> Image.Image:
        """Restore a picture.

        Args:
            degraded: RGB, 8 bit.

        Returns:
            A picture of the same size, RGB, 8 bit; where the method divided by zero, it is as it was.
        """
        given = np.asarray(degraded) / 255
        with np.errstate(divide="ignore", invalid="ignore"):
            restored = self.restore(given)
        return Image.fromarray(_to_levels(np.where(np.isfinite(restored), restored, given)))


CLASSICAL = (
    Classical(
        "dark channel",
        "15 x 15 pixels, omega 0.95, transmission at least 0.1, smoothed by a guided filter, radius 60, epsilon 0.001",
        ("haze",),
        remove_haze,
    ),
    Classical("median", "5 x 5 pixels, each channel", ("rain", "snow"), take_medians),
    Classical("guided filter", "radius 4, epsilon 0.02, each channel by itself", ("rain", "snow"), smooth_by_itself),
    Classical("CLAHE", "lightness of Lab, 8 x 8 tiles, clip limit 2", ("low_light",), equalize_lightness),
    Classical("gamma", "exponent 1 / 2.2", ("low_light",), brighten),
    Classical("Wiener", "kernel of 5 x 5 equal values, balance 0.1", ("blur",), filter_frequencies),
    Classical("Richardson-Lucy", "kernel of 5 x 5 equal values, 5 iterations", ("blur",), deconvolve),
    Classical("shifted JPEG", "64 shifts, quality 20", ("jpeg",), shift_blocks),
    Classical(
        "non-local means",
        "patches of 5 x 5, distance 6, h 0.6 sigma; sigma estimated from wavelets",
        ("noise",),
        average_patches,
    ),
    Classical("BM3D", "profile np; sigma estimated from wavelets", ("noise",), match_blocks),
)


def classical_for(task: str) -> tuple[Classical, ...]:
    """Return the baselines for a kind of degradation; none for composites, and for kinds that nobody restored so.

    Args:
        task: of a test set.
    """
    return tuple(each for each in CLASSICAL if task in each.tasks)
