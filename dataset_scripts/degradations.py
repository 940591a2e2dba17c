"""The degradation imaging model `I = Q((alpha * J + beta * gamma) (x) K)` (Eq. 6, arXiv:2504.17732).

Parameters are drawn by `sample_degradation` and applied by `apply_degradations`; what was drawn travels as a small
JSON record and replays bit-equal. Severity runs from 0, exactly the clean image, to 1; the drawn parameters do not
depend on it, so that a record with another severity shows the same weather or camera, only stronger.

| kind | term of Eq. 6 | meaning of severity s | s = 0.5 |
|---|---|---|---|
| haze | alpha, beta * gamma | optical depth of the farthest point 2.5 s | 1.25 |
| rain | beta * gamma | 67 s streaks per 10,000 pixels, mean lengths (18 .. 48) (1 + s) / 2 pixels | 34 |
| snow | beta * gamma | 746 s flakes per 10,000 pixels, 1 to 14 px wide, nine tenths of them specks | 373 |
| low_light | alpha, sensor | 4 s stops less light, exponent 1 + (0.3 .. 1.3) s; shot and read noise | 2 stops |
| blur | K | path of camera motion 1 + 20 s pixels | 11 px |
| jpeg | Q | quality 100 * 25^-s, chroma 4:2:0 | 20 |
| noise | sensor | Gaussian, standard deviation 100 s / 255 | 50 / 255 |

Two further kinds say what the file is rather than what befell it: `grey` and `file_jpeg`. Nobody asks to undo them, so
they count in neither task nor severity, and theirs is always 1. A grey file has one value a pixel: haze and dim light
come out in the luma of their colours, and noise is drawn once for all three channels. `file_jpeg` saves the picture as
a JPEG of quality 70 to 100, the last step of all; `chroma` from 0.75 on is 4:4:4, below 4:2:0.

The tests of the paper (noise of sigma 50, JPEG of quality 20; inferred from its PSNR) are at 0.5.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from .weather import RAIN_LAYERS, SNOW_LAYERS, Window, add_haze, add_particles, add_snow_mask, depth_field

KINDS = ("haze", "rain", "snow", "low_light", "blur", "jpeg", "noise")

# Kinds whose random field a real one may replace: haze's depth, and the share that snow hides.
FIELD_KINDS = ("haze", "snow")

# Ranges of the uniformly drawn parameters, by kind. Angles in degrees; factors multiply the values of weather.py.
PARAMETERS: dict[str, dict[str, tuple[float, float]]] = {
    "haze": {
        "airlight": (0.7, 1.0),
        "red": (-0.03, 0.03),
        "blue": (-0.03, 0.03),
        "near": (0.0, 0.4),
        "far": (0.6, 1.0),
        "tilt": (-0.3, 0.3),
        "relief": (0.1, 0.4),
    },
    "rain": {
        "angle": (-40.0, 40.0),
        "density": (0.6, 1.4),
        "length": (0.7, 1.4),
        "softness": (0.8, 1.6),
        "opacity": (0.6, 1.0),
        "brightness": (0.75, 1.0),
        "veil": (0.0, 0.3),
    },
    "snow": {
        "angle": (-50.0, 50.0),
        "density": (0.6, 1.4),
        "length": (0.5, 1.5),
        "softness": (0.8, 1.4),
        "opacity": (0.8, 1.0),
        "brightness": (0.85, 1.0),
        "veil": (0.0, 0.2),
    },
    "low_light": {"gamma": (0.3, 1.3), "red": (-0.3, 0.3), "blue": (-0.3, 0.3)},
    "blur": {"angle": (0.0, 180.0), "bend": (-1.0, 1.0)},
    "jpeg": {},
    "noise": {},
    "grey": {},
    "file_jpeg": {"quality": (70.0, 100.0), "chroma": (0.0, 1.0)},
}
# Wider ranges for training, which hold all that `PARAMETERS` draws: haze as even as in a room, and thickest anywhere;
# bright rain, added to the scene or hiding it, few streaks or many, sharp or out of focus, level where the camera was
# turned; snow from fine sheets to large flakes; half of both with the nearest particles out of focus, and half in
# clear air, as a defocus or a veil below 0 is none. Of motion half is up to twice as far, half as unsteady as a hand,
# half added up in linear light, as a sensor does it, and half another in each part of the picture, as that of a camera
# that walks and turns: a stretch or an exponent below 1 is 1, a shake below 0 none, a parallax below 0 an even motion.
# Low light is as the training pairs of LOL (Wei et al., 2018) show it: with higher exponents, and up to a stop less of
# red and blue. In half of it lamps and windows stay bright, as what a photograph shows as white may be far brighter.
VARIED_PARAMETERS: dict[str, dict[str, tuple[float, float]]] = {
    "haze": {
        "airlight": (0.65, 1.0),
        "red": (-0.05, 0.05),
        "blue": (-0.05, 0.05),
        "near": (0.0, 0.9),
        "far": (0.4, 1.0),
        "tilt": (-0.7, 0.7),
        "relief": (0.1, 0.8),
    },
    "rain": {
        "angle": (-90.0, 90.0),
        "density": (0.05, 1.4),
        "length": (0.4, 1.6),
        "softness": (0.3, 1.6),
        "opacity": (0.6, 1.0),
        "brightness": (0.75, 1.0),
        "veil": (-0.3, 0.3),
        "thickness": (0.5, 1.6),
        "spread": (0.5, 6.0),
        "nearness": (-1.0, 1.0),
        "defocus": (-1.5, 1.5),
        "gain": (0.8, 2.0),
        "hide": (0.0, 1.0),
    },
    "snow": {
        "angle": (-60.0, 60.0),
        "density": (0.05, 1.4),
        "length": (0.4, 1.6),
        "softness": (0.7, 2.0),
        "opacity": (0.7, 1.0),
        "brightness": (0.85, 1.0),
        "veil": (-0.5, 0.5),
        "thickness": (0.5, 1.6),
        "spread": (2.0, 20.0),
        "nearness": (-1.0, 1.0),
        "defocus": (-5.0, 5.0),
        "gain": (0.8, 1.6),
        "hide": (0.5, 1.0),
    },
    "blur": {
        "angle": (0.0, 180.0),
        "bend": (-1.0, 1.0),
        "stretch": (0.0, 2.0),
        "shake": (-1.0, 1.0),
        "exposure_gamma": (-0.4, 2.4),
        "parallax": (-1.0, 1.0),
        "zoom": (-0.35, 0.35),
        "roll": (-0.35, 0.35),
    },
    "low_light": {"gamma": (0.3, 2.3), "red": (-0.5, 1.0), "blue": (-0.5, 1.0), "lamps": (-6.0, 6.0)},
}
LAMP_LEVELS = (0.95, 1.0)  # a pixel's largest value: at the first it is no lamp, at the second it is one
UNEVEN_SCENE = {"near": 0.0, "far": 1.0, "tilt": 0.0, "relief": 1.0}  # `depth_field` of uneven motion
POINTS = 8  # of a path of motion, per pixel
FULL_CHROMA = 0.75  # from this `chroma` on a file is 4:4:4


@dataclass(frozen=True)
class Degradation:
    """One degradation, drawn but not yet applied.

    Attributes:
        kind: one of `KINDS`, or `grey`, or `file_jpeg`.
        severity: in [0, 1]; 0 is the identity. The module's table gives its physical meaning.
        seed: of the random fields, a non-negative integer.
        parameters: value of each name in `PARAMETERS[kind]`, or in `VARIED_PARAMETERS[kind]`.
        field: file name of the real depth map (haze) or mask (snow) that stands for the random field, relative to its
            folder; empty for none.

    Raises:
        ValueError: unknown kind, severity outside [0, 1], negative seed, missing or unknown parameters, or a real
            field for a kind that has none.
    """

    kind: str
    severity: float
    seed: int
    parameters: dict[str, float]
    field: str = ""

    def __post_init__(self) -> None:
        if self.kind not in PARAMETERS:
            raise ValueError(f"`kind` must be one of {', '.join(PARAMETERS)}, got {self.kind!r}; correct its spelling")
        if not 0 <= self.severity <= 1:
            raise ValueError(f"`severity` must be in [0, 1], got {self.severity}; 0 is clean, 1 the strongest")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0, got {self.seed}; use any non-negative integer")
        if self.parameters.keys() not in (PARAMETERS[self.kind].keys(), VARIED_PARAMETERS.get(self.kind, {}).keys()):
            raise ValueError(
                f"`parameters` of {self.kind} must be {sorted(PARAMETERS[self.kind])}, got {sorted(self.parameters)}; "
                "draw them with `sample_degradation`"
            )
        if self.field and self.kind not in FIELD_KINDS:
            raise ValueError(f"`field` must be empty for {self.kind}, got {self.field!r}; haze and snow have fields")


def sample_degradation(
    kind: str, severity: float, rng: np.random.Generator, *, is_varied: bool = False
) -> Degradation:
    """Draw the parameters of one degradation; they and `rng`'s use do not depend on `severity`.

    Args:
        kind: one of `KINDS`, or `grey`, or `file_jpeg`.
        severity: in [0, 1].
        rng: source of the draws.
        is_varied: haze, rain, snow, low light and blur come from `VARIED_PARAMETERS`.

    Raises:
        ValueError: unknown kind, or severity outside [0, 1].
    """
    ranges = (PARAMETERS | VARIED_PARAMETERS if is_varied else PARAMETERS).get(kind, {})
    seed = int(rng.integers(2**31))
    # Four decimals keep the record small.
    parameters = {name: round(float(rng.uniform(low, high)), 4) for name, (low, high) in ranges.items()}
    return Degradation(kind, float(severity), seed, parameters)


def apply_degradations(
    clean: np.ndarray,
    record: Sequence[Degradation],
    *,
    origin: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
    fields: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> np.ndarray:
    """Degrade a clean image, in the order of Eq. 6 whatever the order of `record`.

    Args:
        clean: RGB in [0, 1], (H, W, 3) float32; a whole picture, or the crop at `origin` of one.
        record: at most one degradation of each kind; may be empty.
        origin: top and left of the crop in the whole picture, pixels.
        size: height and width of the whole picture, pixels; by default `clean` ends where the picture ends.
        fields: the real field of each kind whose degradation names one, float32 in [0, 1]: for haze the depth of the
            whole picture, 1 far away, of its size; for snow the share hidden at severity 0.5, (H', W') of any size,
            continued by reflection.

    Returns:
        The degraded image, RGB in [0, 1], (H, W, 3) float32.

    Raises:
        TypeError: `clean` is not float32.
        ValueError: wrong shape or range of `clean`, a crop outside the picture, a kind twice, or a real field that is
            named but not given, or the other way round.
    """
    _check_image(clean)
    window = _place(clean, origin, size)
    kinds = [degradation.kind for degradation in record]
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"`record` must hold each kind at most once, got {', '.join(kinds)}; keep one of each")
    _check_fields(record, fields, window)
    drawn = {degradation.kind: degradation for degradation in record if degradation.severity > 0}
    image = to_grey(clean) if "grey" in drawn else np.ascontiguousarray(clean)
    image = _add_medium(image, drawn, window, fields)
    if blur := drawn.get("blur"):
        image = add_motion_blur(image, blur.severity, blur.seed, blur.parameters, window)
    return np.clip(_photograph(image, drawn, window), 0, 1)


def _add_medium(
    image: np.ndarray, drawn: Mapping[str, Degradation], window: Window, fields: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return `alpha * J + beta * gamma`, from the scene to the particles before the lens."""
    if low_light := drawn.get("low_light"):
        image = dim(image, low_light.severity, low_light.parameters)
    if haze := drawn.get("haze"):
        depth = fields["haze"][window.rows, window.columns] if haze.field else None
        image = add_haze(image, haze.severity, haze.seed, haze.parameters, window, depth=depth)
    if rain := drawn.get("rain"):
        image = add_particles(image, RAIN_LAYERS, rain.severity, rain.seed, rain.parameters, window)
    if (snow := drawn.get("snow")) and snow.field:
        return add_snow_mask(image, fields["snow"], snow.severity, snow.seed, snow.parameters, window)
    if snow:
        image = add_particles(image, SNOW_LAYERS, snow.severity, snow.seed, snow.parameters, window)
    return image


def _photograph(image: np.ndarray, drawn: Mapping[str, Degradation], window: Window) -> np.ndarray:
    """Return Q of what the sensor reads.

    Paper: Eq. 2 adds the noise to the finished image; here: before Q, because the sensor precedes the codec.
    """
    image = _read_sensor(image, drawn, window)
    if jpeg := drawn.get("jpeg"):
        image = compress(image, jpeg_quality(jpeg.severity), (window.top, window.left))
    if file := drawn.get("file_jpeg"):
        is_full = file.parameters["chroma"] >= FULL_CHROMA
        image = compress(image, round(file.parameters["quality"]), (window.top, window.left), is_full_chroma=is_full)
    if "low_light" in drawn and not jpeg and not file:
        # Of a file's 256 levels a dark picture fills few: their rounding is part of what is lost.
        return np.rint(image * 255) / 255
    return image


def _read_sensor(image: np.ndarray, drawn: Mapping[str, Degradation], window: Window) -> np.ndarray:
    if is_grey := "grey" in drawn:
        image = _luma(image)
    if low_light := drawn.get("low_light"):
        image = add_shot_noise(image, low_light.severity, _noise_generator(low_light, window))
    if noise := drawn.get("noise"):
        normal = _noise_generator(noise, window).standard_normal(image.shape, np.float32)
        image = image + np.float32(100 / 255 * noise.severity) * normal
    return np.repeat(image, 3, axis=2) if is_grey else image


def to_grey(image: np.ndarray) -> np.ndarray:
    """Turn a picture grey, as a file of 256 levels holds it.

    Args:
        image: RGB in [0, 1], (H, W, 3) float32.

    Returns:
        Rec. 601 luma in three equal channels, multiples of 1 / 255, (H, W, 3) float32.
    """
    return np.repeat(np.rint(_luma(image) * 255) / np.float32(255), 3, axis=2)


def _luma(image: np.ndarray) -> np.ndarray:
    """Return the Rec. 601 luma, (H, W, 1) float32; of a grey picture exactly what its channels are."""
    red, green, blue = np.split(image, 3, axis=2)
    return green + np.float32(0.299) * (red - green) + np.float32(0.114) * (blue - green)


def dim(image: np.ndarray, severity: float, parameters: Mapping[str, float]) -> np.ndarray:
    """Lower the exposure: `alpha = 2 ** -stops * J ** (gamma - 1)`, (H, W, 3) float32 in [0, 1].

    Args:
        image: RGB in [0, 1], (H, W, 3) float32.
        severity: stops are `4 * severity`.
        parameters: `gamma`, by which the exponent exceeds 1 at severity 1; `red` and `blue`, further stops that these
            channels lose at severity 1; `lamps`, where stated and above 0, by how many stops a white that is clipped
            is brighter than white: it loses so many less, but never grows brighter.
    """
    stops = np.array((4 + parameters["red"], 4, 4 + parameters["blue"])) * severity
    if (lamps := parameters.get("lamps", 0)) > 0:
        low, high = LAMP_LEVELS
        lamp = np.clip((image.max(axis=2, keepdims=True) - low) / (high - low), 0, 1)
        stops = np.maximum(stops - lamps * lamp, 0)
    return cv2.pow(image, 1 + severity * parameters["gamma"]) * np.exp2(-stops).astype(np.float32)


def add_shot_noise(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of a dim exposure: variance `5e-4 s J` of the photons and `(4e-3 s)^2` of the read-out."""
    # Light is not negative, but the Fourier transform behind a large blur may round it so.
    variance = np.float32(5e-4 * severity) * np.maximum(image, 0) + np.float32((4e-3 * severity) ** 2)
    return image + np.sqrt(variance) * rng.standard_normal(image.shape, np.float32)


def add_motion_blur(
    image: np.ndarray, severity: float, seed: int, parameters: Mapping[str, float], window: Window
) -> np.ndarray:
    """Add up what the moving camera sees, (H, W, 3) float32; beyond its edges the picture is its reflection.

    Args:
        image: RGB, (H, W, 3) float32, at least 0.
        severity: in [0, 1].
        seed: of the hand's shaking, and of the scene's depth.
        parameters: those of `motion_path`; where stated, `exposure_gamma`, the power of a pixel's value that is the
            light which is added up: up to 1, or without it as in the benchmarks, the values are; and `parallax`, by
            which share the farthest part of the scene moves less than the nearest, with `zoom` and `roll`, how far the
            middle of the picture's longer side moves outwards and around its centre, as shares of the path. Without a
            parallax above 0 the whole picture is convolved with `motion_kernel`.
        window: place of the image in the whole picture.
    """
    path = {name: parameters[name] for name in ("angle", "bend", "stretch", "shake") if name in parameters}
    gamma = parameters.get("exposure_gamma", 1.0)
    light = cv2.pow(image, gamma) if gamma > 1 else image
    if parameters.get("parallax", 0) > 0:
        # Paper: one kernel K; here: a path for each pixel, because a camera that walks and turns blurs unevenly.
        light = _add_up_views(light, motion_path(severity, **path, seed=seed), seed, parameters, window)
    else:
        # OpenCV correlates where Eq. 6 convolves.
        kernel = cv2.flip(motion_kernel(severity, **path, seed=seed), -1)
        light = cv2.filter2D(light, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return cv2.pow(np.maximum(light, 0), 1 / gamma) if gamma > 1 else light


def _add_up_views(
    light: np.ndarray, path: np.ndarray, seed: int, parameters: Mapping[str, float], window: Window
) -> np.ndarray:
    """Return the mean of what is seen along the path, a view a pixel: interpolation fills what lies between."""
    nearness = 1 - parameters["parallax"] * depth_field(seed, UNEVEN_SCENE, window)
    half = max(window.picture_height, window.picture_width) / 2
    rows, columns = np.arange(window.height)[:, None], np.arange(window.width)
    y = (rows + window.top - (window.picture_height - 1) / 2) / half
    x = (columns + window.left - (window.picture_width - 1) / 2) / half
    outwards = parameters["zoom"] * y + parameters["roll"] * x, parameters["zoom"] * x - parameters["roll"] * y
    passed = np.linspace(-0.5, 0.5, path.shape[1]) * np.hypot(*np.diff(path)).sum()
    views = range(POINTS // 2, path.shape[1], POINTS)
    mean = np.zeros_like(light)
    for point, way in zip(path.T[views], passed[views], strict=True):
        moves = (nearness * shift + way * turn for shift, turn in zip(point, outwards, strict=True))
        # Steps of 1/32, in which OpenCV interpolates: a crop rounds as its whole picture does.
        row_map, column_map = (
            (place - np.rint(32 * move) / 32).astype(np.float32)
            for place, move in zip((rows, columns), moves, strict=True)
        )
        mean += cv2.remap(light, column_map, row_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return mean / np.float32(len(views))


def motion_path(
    severity: float, angle: float, bend: float, stretch: float = 1.0, shake: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Return points (y, x) of camera motion along an arc of `20 * severity` pixels, around their mean, (2, N) float64.

    Args:
        severity: in [0, 1]; at 0 there is a single point.
        angle: direction of the path's middle, degrees.
        bend: in [-1, 1]; the path turns by `2 * bend ** 3` radians, so that most paths are nearly straight.
        stretch: factor of the path's length; below 1 it is 1.
        shake: up to 1; the heading sways by up to `3 * shake ** 2` radians, in three waves; from 0 down not at all.
        seed: of the waves' phases.
    """
    length = _path_length(severity, stretch)
    steps = np.linspace(-0.5, 0.5, POINTS * math.ceil(length) + 1)
    headings = math.radians(angle) + 2 * bend**3 * steps
    if shake > 0:
        phases = np.random.default_rng(seed).uniform(0, 2 * math.pi, 3)
        headings += shake**2 * sum(np.sin(2 * math.pi * (1 + wave) * steps + phases[wave]) for wave in range(3))
    path = np.cumsum(np.stack((np.sin(headings), np.cos(headings))), axis=1) * length / len(steps)
    return path - path.mean(axis=1, keepdims=True)


def _path_length(severity: float, stretch: float) -> float:
    return 20 * severity * max(stretch, 1)


def motion_kernel(severity: float, angle: float, bend: float, **further: float) -> np.ndarray:
    """Return the kernel of a `motion_path`, `1 + 20 * severity` pixels long; square, odd, float32, sum 1.

    Args:
        severity: in [0, 1]; at 0 the kernel is a single one.
        angle: as `motion_path` takes it.
        bend: as `motion_path` takes it.
        further: its `stretch`, `shake` and `seed`.
    """
    path = motion_path(severity, angle, bend, **further)
    radius = math.ceil(_path_length(severity, further.get("stretch", 1.0)) / 2) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    corner = np.floor(path).astype(int)
    y, x = path - corner
    for (row, column), weight in (
        ((0, 0), (1 - y) * (1 - x)),
        ((0, 1), (1 - y) * x),
        ((1, 0), y * (1 - x)),
        ((1, 1), y * x),
    ):
        np.add.at(kernel, (corner[0] + row + radius, corner[1] + column + radius), weight)
    return (kernel / path.shape[1]).astype(np.float32)


def jpeg_quality(severity: float) -> int:
    """Return the JPEG quality `100 * 25 ** -severity`, in 4..100."""
    return round(100 * 25**-severity)


def compress(
    image: np.ndarray, quality: int, origin: tuple[int, int] = (0, 0), *, is_full_chroma: bool = False
) -> np.ndarray:
    """Pass an image through an 8-bit JPEG file, (H, W, 3) float32.

    Args:
        image: RGB, (H, W, 3) float32; clipped to [0, 1] by the 8 bits.
        quality: in 1..100.
        origin: top and left of a crop in its whole picture, pixels; the coding blocks lie where they would there.
        is_full_chroma: 4:4:4 in place of 4:2:0.
    """
    # 4:2:0 codes squares of 16 pixels: fill up to the square in which the crop begins.
    top, left = origin[0] % 16, origin[1] % 16
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    pixels = cv2.copyMakeBorder(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), top, 0, left, 0, cv2.BORDER_REPLICATE)
    chroma = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if is_full_chroma else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    settings = {cv2.IMWRITE_JPEG_QUALITY: quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR: chroma}
    _, file = cv2.imencode(".jpg", pixels, [number for setting in settings.items() for number in setting])
    decoded = cv2.imdecode(file, cv2.IMREAD_COLOR_RGB)[top:, left:]
    return decoded.astype(np.float32) / 255


def _check_image(clean: np.ndarray) -> None:
    if clean.dtype != np.float32:
        raise TypeError(f"`clean` must be float32, got {clean.dtype}; divide 8-bit values by np.float32(255)")
    if clean.ndim != 3 or clean.shape[2] != 3 or clean.size == 0:
        raise ValueError(f"`clean` must be (H, W, 3), got {clean.shape}; convert it to RGB, channels last")
    low, high = float(clean.min()), float(clean.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"`clean` must be in [0, 1], got [{low:g}, {high:g}]; scale or clip it first")


def _check_fields(record: Sequence[Degradation], fields: Mapping[str, np.ndarray], window: Window) -> None:
    named = {degradation.kind: degradation.field for degradation in record if degradation.field}
    if named.keys() != fields.keys():
        raise ValueError(
            f"`fields` must hold the real fields that `record` names, {named}, got those of {sorted(fields)}; "
            "open them with `RealFields`"
        )
    size = (window.picture_height, window.picture_width)
    if "haze" in fields and fields["haze"].shape != size:
        raise ValueError(
            f"`fields` must give haze a depth of the picture's size {size}, got {fields['haze'].shape}; resize it"
        )


def _place(clean: np.ndarray, origin: tuple[int, int], size: tuple[int, int] | None) -> Window:
    (top, left), (height, width) = origin, clean.shape[:2]
    picture_height, picture_width = size or (top + height, left + width)
    if not (0 <= top <= picture_height - height and 0 <= left <= picture_width - width):
        raise ValueError(
            f"`origin` must place the {height} x {width} crop inside the {picture_height} x {picture_width} picture, "
            f"got {(top, left)}; pass (top, left) and the picture's `size`"
        )
    return Window(top, left, height, width, picture_height, picture_width)


def _noise_generator(degradation: Degradation, window: Window) -> np.random.Generator:
    return np.random.default_rng((degradation.seed, window.top, window.left))
