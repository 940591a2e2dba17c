"""Haze, rain and snow: the `alpha * J + beta * gamma` of the imaging model (Eq. 6, arXiv:2504.17732).

Every field is a function of a seed and of the pixel's place in the whole picture, so that a crop of a large picture
looks as it would inside that picture.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

CELL = 256  # side, in pixels, of the squares with random particles of their own: a crop draws those it touches
SUBPIXEL_BITS = 4  # of OpenCV's line drawing
TAPER = 0.12  # standard deviation of a stroke's soft ends, as a share of its length


class Window(NamedTuple):
    """Where an image lies in the whole picture that it was cut from; all in pixels."""

    top: int
    left: int
    height: int
    width: int
    picture_height: int
    picture_width: int

    @property
    def rows(self) -> slice:
        """Rows of the whole picture."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Columns of the whole picture."""
        return slice(self.left, self.left + self.width)


class Strokes(NamedTuple):
    """One depth layer of falling particles, as it looks at severity 1.

    Attributes:
        density: particles per 10,000 pixels.
        length: length of the particle's trace, pixels.
        thickness: width of the trace, pixels.
        opacity: largest share of the background that the trace hides, in [0, 1].
        softness: standard deviation of the layer's defocus, across the trace, pixels.
    """

    density: float
    length: float
    thickness: int
    opacity: float
    softness: float


RAIN_LAYERS = (
    Strokes(density=40, length=18, thickness=1, opacity=0.6, softness=0.5),
    Strokes(density=22, length=32, thickness=1, opacity=0.9, softness=0.6),
    Strokes(density=5, length=48, thickness=2, opacity=1.0, softness=0.8),
)
SNOW_LAYERS = (
    Strokes(density=700, length=3, thickness=1, opacity=0.65, softness=0.4),
    Strokes(density=40, length=4, thickness=2, opacity=1.0, softness=0.5),
    Strokes(density=5, length=5, thickness=4, opacity=1.0, softness=0.8),
    Strokes(density=0.8, length=4, thickness=14, opacity=0.55, softness=1.3),
)

# What weather has whose record does not state it.
PLAIN = {"thickness": 1.0, "spread": 4.0, "nearness": 0.0, "defocus": 0.0, "gain": 1.0, "hide": 1.0}


def depth_field(seed: int, parameters: Mapping[str, float], window: Window) -> np.ndarray:
    """Return a smooth depth that grows from the bottom of the picture to its top, (H, W) float32 in [0, 1].

    Args:
        seed: of the relief, a sum of four plane waves of at most two periods per picture.
        parameters: `near` and `far`, depths of the bottom and top rows; `tilt`, depth added from left to right;
            `relief`, largest height of the waves.
        window: place of the crop; the field is evaluated in whole-picture coordinates.
    """
    y = (window.top + np.arange(window.height)[:, None] + 0.5) / window.picture_height
    x = (window.left + np.arange(window.width)[None, :] + 0.5) / window.picture_width
    rows = parameters["far"] + (parameters["near"] - parameters["far"]) * y
    depth = rows.astype(np.float32) + (parameters["tilt"] * (x - 0.5)).astype(np.float32)
    waves = np.random.default_rng(seed).uniform((-2, -2, 0), (2, 2, 1), size=(4, 3))
    height = parameters["relief"] / len(waves)
    for frequency_y, frequency_x, phase in waves:
        # cos(a + b) from one-dimensional tables: two products a pixel in place of a cosine.
        a, b = 2 * math.pi * (frequency_y * y + phase), 2 * math.pi * frequency_x * x
        depth += (height * np.cos(a)).astype(np.float32) * np.cos(b).astype(np.float32)
        depth -= (height * np.sin(a)).astype(np.float32) * np.sin(b).astype(np.float32)
    return np.clip(depth, 0, 1)


def add_haze(
    image: np.ndarray,
    severity: float,
    seed: int,
    parameters: Mapping[str, float],
    window: Window,
    *,
    depth: np.ndarray | None = None,
) -> np.ndarray:
    """Attenuate by `t = exp(-2.5 * severity * depth)` and add the airlight `(1 - t) * A`.

    Args:
        image: RGB in [0, 1], (H, W, 3) float32.
        severity: in [0, 1].
        seed: of the depth field.
        parameters: those of `depth_field`; `airlight`, the green of A; `red` and `blue`, what its other channels have
            more.
        window: place of the image in the whole picture.
        depth: real depth of the image, (H, W) float32 in [0, 1]; None for `depth_field`.

    Returns:
        RGB in [0, 1], (H, W, 3) float32.
    """
    depth = depth_field(seed, parameters, window) if depth is None else depth
    transmission = np.exp(np.float32(-2.5 * severity) * depth)[..., None]
    tint = np.array((parameters["red"], 0, parameters["blue"]), np.float32)
    airlight = np.clip(np.float32(parameters["airlight"]) + tint, 0, 1)
    return image * transmission + airlight * (1 - transmission)


def add_particles(
    image: np.ndarray,
    layers: tuple[Strokes, ...],
    severity: float,
    seed: int,
    parameters: Mapping[str, float],
    window: Window,
) -> np.ndarray:
    """Hide the share beta of the image behind particles and a veil of mist: `alpha = 1 - beta` in Eq. 6.

    Args:
        image: RGB in [0, 1], (H, W, 3) float32.
        layers: `RAIN_LAYERS` or `SNOW_LAYERS`, from far to near.
        severity: in [0, 1]; the number of particles and the veil are proportional to it, and both length and opacity
            grow with it.
        seed: of the particles.
        parameters: `angle` of fall, degrees from the vertical; `density`, `length`, `softness` and `opacity`, factors
            of the layers' values; `veil`, its beta at severity 1, none where it is below 0; `brightness`, gamma of
            all. Weather that varies has those of `PLAIN` too: `thickness`, a further factor; `spread`, how far a
            particle's fall may lean from the angle, degrees; `nearness`, by which power of 2 the nearest layer is
            denser and the farthest thinner; `defocus`, how much softer the nearest layer is, pixels, the others less
            in proportion, none where it is below 0; `gain`, a factor of what a layer hides, up to all; `hide`, the
            share of beta that alpha loses: 1 where particles cover the scene, 0 where their light is added to it.
        window: place of the image in the whole picture.

    Returns:
        RGB in [0, 1], (H, W, 3) float32.
    """
    parameters = PLAIN | parameters
    clear = np.full(image.shape[:2], _pass_mist(severity, parameters), np.float32)
    for index, layer in enumerate(layers):
        closeness = index / (len(layers) - 1)
        nearness = parameters["nearness"] * (2 * closeness - 1)
        scaled = Strokes(
            density=layer.density * parameters["density"] * severity * 2**nearness,
            length=layer.length * parameters["length"] * (0.5 + 0.5 * severity),
            thickness=max(1, round(layer.thickness * parameters["thickness"])),
            opacity=layer.opacity * parameters["opacity"] * (0.6 + 0.4 * severity),
            softness=layer.softness * parameters["softness"] + closeness * max(parameters["defocus"], 0.0),
        )
        hidden = draw_strokes(scaled, parameters["angle"], (seed, index), window, parameters["spread"])
        clear *= 1 - np.minimum(np.float32(parameters["gain"]) * hidden, 1)
    clear = clear[..., None]
    alpha = clear + np.float32(1 - parameters["hide"]) * (1 - clear)
    return image * alpha + np.float32(parameters["brightness"]) * (1 - clear)


def add_snow_mask(
    image: np.ndarray,
    mask: np.ndarray,
    severity: float,
    seed: int,
    parameters: Mapping[str, float],
    window: Window,
) -> np.ndarray:
    """Hide the share beta of the image behind a mask of real snow: `alpha = 1 - beta` in Eq. 6.

    `2 * severity` layers of the mask lie over each other, `1 - beta = (1 - mask) ** (2 * severity)`.

    Args:
        image: RGB in [0, 1], (H, W, 3) float32.
        mask: share that one layer hides, (H', W') float32 in [0, 1]; keeps its scale and is continued by reflection.
        severity: in [0, 1].
        seed: of the place at which the mask begins.
        parameters: `veil` and `brightness` as in `add_particles`; the others belong to drawn snow.
        window: place of the image in the whole picture.

    Returns:
        RGB in [0, 1], (H, W, 3) float32.
    """
    start = np.random.default_rng(seed).integers(mask.shape)
    rows = _reflect(start[0] + window.top + np.arange(window.height), mask.shape[0])
    columns = _reflect(start[1] + window.left + np.arange(window.width), mask.shape[1])
    clear = np.float32(_pass_mist(severity, parameters)) * (1 - mask[np.ix_(rows, columns)]) ** (2 * severity)
    alpha = clear[..., None]
    return image * alpha + np.float32(parameters["brightness"]) * (1 - alpha)


def _pass_mist(severity: float, parameters: Mapping[str, float]) -> float:
    """Return the share of the scene's light that a veil of mist lets through."""
    return 1 - severity * max(parameters["veil"], 0.0)


def _reflect(positions: np.ndarray, length: int) -> np.ndarray:
    """Fold positions, from 0 on, back into 0 .. length - 1."""
    positions = positions % (2 * length)
    return np.minimum(positions, 2 * length - 1 - positions)


def draw_strokes(
    layer: Strokes, angle: float, seed: tuple[int, int], window: Window, spread: float = PLAIN["spread"]
) -> np.ndarray:
    """Return how much of the background one layer hides, (H, W) float32 in [0, 1].

    Args:
        layer: size and number of the strokes.
        angle: mean direction of fall, degrees from the vertical.
        seed: of the layer, two non-negative integers.
        window: place of the crop in the whole picture.
        spread: how far each stroke leans from the angle at most, degrees.
    """
    profile = _stroke_profile(TAPER * layer.length, layer.softness, math.radians(angle))
    soft = len(profile) // 2
    # Half of the longest stroke, half its width, and what anti-aliasing and rounding add.
    reach = math.ceil(0.75 * layer.length + 0.5 * layer.thickness) + 2
    particles = _particles(layer, seed, window, reach + soft)
    # A line that the canvas cut would be rasterised from its cut end, otherwise than in the whole picture.
    border = 2 * reach + soft
    canvas = np.zeros((window.height + 2 * border, window.width + 2 * border), np.uint8)
    ends = np.rint((_stroke_ends(particles, layer.length, angle, spread) + border) * 2**SUBPIXEL_BITS).astype(np.int32)
    group = (3 * particles[:, 4]).astype(int)
    # Fainter strokes first, so that a stronger one lies on top.
    for index, strength in enumerate((0.4, 0.7, 1.0)):
        shade, lines = round(255 * strength * layer.opacity), list(ends[group == index])
        cv2.polylines(canvas, lines, False, shade, layer.thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    canvas = canvas[border - soft : border + window.height + soft, border - soft : border + window.width + soft]
    hidden = cv2.filter2D(canvas, cv2.CV_32F, profile / 255)
    # The discrete Fourier transform behind large filters leaves rounding errors below 0.
    return np.clip(hidden[soft : soft + window.height, soft : soft + window.width], 0, 1)


def _stroke_profile(along: float, across: float, direction: float) -> np.ndarray:
    """Return a Gaussian of two standard deviations in pixels, the first at `direction` radians; square, sum 1."""
    along = max(along, across)
    radius = math.ceil(2 * along)
    x = np.arange(-radius, radius + 1, dtype=np.float32)
    y = x[:, None]
    fall = (x * math.sin(direction) + y * math.cos(direction)) / along
    drift = (x * math.cos(direction) - y * math.sin(direction)) / across
    profile = np.exp(-0.5 * (fall**2 + drift**2))
    return profile / profile.sum()


def _stroke_ends(particles: np.ndarray, length: float, angle: float, spread: float) -> np.ndarray:
    """Return both ends (x, y) of each particle's stroke, pixels of the window, (N, 2, 2) float64."""
    direction = np.radians(angle - spread + 2 * spread * particles[:, 2])
    half = 0.5 * length * (0.5 + particles[:, 3])
    fall = np.stack((half * np.sin(direction), half * np.cos(direction)), axis=1)
    centre = particles[:, :2]
    return np.stack((centre - fall, centre + fall), axis=1)


def _particles(layer: Strokes, seed: tuple[int, int], window: Window, margin: int) -> np.ndarray:
    """Return (x, y) in the window's pixels and three marks in [0, 1) of the particles near it, (N, 5) float64.

    Double precision places a particle on the same fraction of a pixel in every window.
    """
    count = round(layer.density * CELL**2 / 10_000)
    cells = []
    for row in range((window.top - margin) // CELL, (window.top + window.height + margin) // CELL + 1):
        for column in range((window.left - margin) // CELL, (window.left + window.width + margin) // CELL + 1):
            # Seeds are not negative, but a cell above or left of the picture is.
            cell = np.random.default_rng((*seed, row + 1, column + 1)).random((count, 5), np.float32).astype(float)
            cell[:, :2] = cell[:, :2] * CELL + (column * CELL - window.left, row * CELL - window.top)
            near = (cell[:, :2] > -margin) & (cell[:, :2] < (window.width + margin, window.height + margin))
            cells.append(cell[near.all(axis=1)])
    return np.concatenate(cells)
