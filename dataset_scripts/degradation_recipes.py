"""What is drawn for a picture and how it is told: which kinds act on it, how strongly, with which masks or depths."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from types import MappingProxyType

import cv2
import numpy as np
import PIL.Image
import torch

from .degradations import KINDS, Degradation, sample_degradation

FIELD_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff")
TRAINING_SEVERITY = (0.1, 1.0)
# A run with all darkness varied gained on real pictures, and lost more on the benchmark's.
VARIED_LIGHT_SHARE = 0.5
FURTHER_PROBABILITIES = ("identity_probability", "grey_probability", "file_jpeg_probability")


@dataclass(frozen=True)
class DegradationRecipe:
    """How the degradations of a picture are drawn: one kind, or now and then two or three.

    Attributes:
        kinds: kinds to choose from.
        weights: how often a kind is drawn against the others, 1 where none is given.
        severity: range of the severities, within 0 to 1, drawn uniformly and independently for each kind.
        composite_probability: how often two or three kinds (as likely; no more than there are) act together, 0 to 1.
        identity_probability: how often no kind acts: there is nothing to restore, 0 to 1.
        grey_probability: how often the photograph is turned grey before it is degraded, 0 to 1.
        file_jpeg_probability: how often the degraded picture is saved as a JPEG of quality 70 to 100, 0 to 1; not
            where the kind `jpeg` acts.
        varied_weather: whether haze, rain and snow look more varied (`VARIED_PARAMETERS`) than in the benchmarks.
        varied_blur: whether blur does: half of it each longer, unsteady, exposed in linear light, and uneven.
        varied_light: whether half of low light does: of more contrast, of less red and blue, half of it with lamps.

    Raises:
        ValueError: a value is outside its range.
    """

    kinds: tuple[str, ...] = KINDS
    severity: tuple[float, float] = TRAINING_SEVERITY
    composite_probability: float = 0.2
    weights: Mapping[str, float] = field(default_factory=dict)
    identity_probability: float = 0.0
    grey_probability: float = 0.0
    file_jpeg_probability: float = 0.0
    varied_weather: bool = False
    varied_blur: bool = False
    varied_light: bool = False

    def __post_init__(self) -> None:
        low, high = self.severity
        if not 0 <= low <= high <= 1:
            raise ValueError(f"`severity` must be a range within 0 and 1, got {self.severity}; give (lowest, highest)")
        if not 0 <= self.composite_probability <= 1:
            raise ValueError(
                f"`composite_probability` must be within 0 and 1, got {self.composite_probability}; "
                "0 means single kinds only"
            )
        for name in FURTHER_PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be within 0 and 1, got {getattr(self, name)}; 0 means never")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(
                f"`kinds` must be some of {', '.join(KINDS)}, got {tuple(self.kinds)}; check the spelling"
            )
        if wrong := {kind: weight for kind, weight in self.weights.items() if kind not in KINDS or not weight > 0}:
            raise ValueError(f"`weights` must be above 0, for kinds that exist, got {wrong}; leave these out")

    def draw(self, rng: np.random.Generator) -> tuple[Degradation, ...]:
        """Draw what happens to a picture.

        Args:
            rng: source of randomness.

        Returns:
            The degradations, each kind at most once; before them `grey` and after them `file_jpeg`, if they are drawn.
        """
        record = () if _happens(self.identity_probability, rng) else self._draw_kinds(rng)
        if _happens(self.grey_probability, rng):
            record = (sample_degradation("grey", 1.0, rng), *record)
        if _happens(self.file_jpeg_probability, rng) and "jpeg" not in {degradation.kind for degradation in record}:
            record = (*record, sample_degradation("file_jpeg", 1.0, rng))
        return record

    def isolate(self, kind: str) -> "DegradationRecipe":
        """Return the recipe that draws one of the kinds and nothing beside it.

        Args:
            kind: the one.
        """
        nothing = dict.fromkeys(("composite_probability", *FURTHER_PROBABILITIES), 0.0)
        # Without weights, which take a draw of another kind: runs are then validated on the same patches.
        return replace(self, kinds=(kind,), weights={}, **nothing)

    def _draw_kinds(self, rng: np.random.Generator) -> tuple[Degradation, ...]:
        count = int(rng.integers(2, 4)) if rng.random() < self.composite_probability else 1
        weights = np.array([self.weights.get(kind, 1.0) for kind in self.kinds])
        shares = weights / weights.sum() if self.weights else None
        chosen = rng.choice(len(self.kinds), size=min(count, len(self.kinds)), replace=False, p=shares)
        return tuple(
            sample_degradation(kind, float(rng.uniform(*self.severity)), rng, is_varied=self._is_varied(kind, rng))
            for kind in (self.kinds[position] for position in chosen)
        )

    def _is_varied(self, kind: str, rng: np.random.Generator) -> bool:
        if kind == "low_light":
            return self.varied_light and _happens(VARIED_LIGHT_SHARE, rng)
        return self.varied_blur if kind == "blur" else self.varied_weather


def _happens(probability: float, rng: np.random.Generator) -> bool:
    # What never happens takes no draw, so that recipes without it draw what they drew before there was any.
    return probability > 0 and rng.random() < probability


def _fixed(kind: str, severity: float) -> DegradationRecipe:
    return DegradationRecipe((kind,), (severity, severity), 0.0)


def _jpeg_severity(quality: int) -> float:
    """Invert `jpeg_quality`."""
    return math.log(quality / 100, 1 / 25)


RECIPES = MappingProxyType(
    {
        **{f"noise_sigma{sigma}": _fixed("noise", sigma / 100) for sigma in (15, 25, 50)},
        **{f"jpeg_q{quality}": _fixed("jpeg", _jpeg_severity(quality)) for quality in (10, 20, 40)},
        **{f"{kind}_mid": _fixed(kind, 0.5) for kind in KINDS},
        **{kind: DegradationRecipe((kind,), composite_probability=0.0) for kind in KINDS},
        "seven_kinds": DegradationRecipe(composite_probability=0.0),
        "seven_kinds_composites": DegradationRecipe(),
        "composites": DegradationRecipe(composite_probability=1.0),
    }
)
"""Recipes by name: fixed severities for tests, ranges for training.

`noise_sigma15`, `noise_sigma25`, `noise_sigma50`: standard deviation of 255; `jpeg_q10`, `jpeg_q20`, `jpeg_q40`: JPEG
quality; `<kind>_mid`: severity 0.5; `<kind>`: severities 0.1 to 1; `seven_kinds`: any one kind;
`seven_kinds_composites`: two or three kinds in a fifth of the pictures; `composites`: always two or three.
"""


def name_task(record: Sequence[Degradation]) -> str:
    """Return the task that undoes a record: its kinds in the order of `KINDS`, joined by `+`; "clean" without any.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> name_task([sample_degradation(kind, 0.5, rng) for kind in ("noise", "haze")])
        'haze+noise'
    """
    kinds = {degradation.kind for degradation in record}
    return "+".join(kind for kind in KINDS if kind in kinds) or "clean"


def severity_of(record: Sequence[Degradation]) -> torch.Tensor:
    """Return the severity of each of `KINDS`, 0 where it is absent, (7,) float32."""
    severity = torch.zeros(len(KINDS))
    for degradation in record:
        if degradation.kind in KINDS:
            severity[KINDS.index(degradation.kind)] = degradation.severity
    return severity


def mark_kinds(task: str) -> torch.Tensor:
    """Return NaN for each of `KINDS` that a task names, as their strengths are unknown, and 0 for the others, (7,).

    Args:
        task: kinds joined by `+`; "mixed": any of them; "clean": none.
    """
    present = KINDS if task == "mixed" else task.split("+")
    return torch.tensor([torch.nan if kind in present else 0.0 for kind in KINDS])


def to_record(degradations: Sequence[Degradation]) -> str:
    """Return the degradations as compact JSON; a real field is named only where there is one."""
    entries = [asdict(degradation) for degradation in degradations]
    stated = [{name: value for name, value in entry.items() if name != "field" or value} for entry in entries]
    return json.dumps(stated, separators=(",", ":"))


def from_record(record: str) -> tuple[Degradation, ...]:
    """Return the degradations that `to_record` wrote; they replay bit-equal.

    Raises:
        ValueError: `record` is not such JSON, or a value in it is out of range.
    """
    try:
        return tuple(Degradation(**fields) for fields in json.loads(record))
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"`record` must be JSON of `to_record`, got {record[:80]!r}; {error}") from error


class RealFields:
    """Folders of real snow masks and real depth maps, which take the place of the drawn ones.

    A snow mask (such as Snow100K's) is white snow on black; any mask serves any picture. A depth map belongs to the
    photograph whose file name it has but for the suffix; bright is far, and 8 or 16 bits become 0 to 1 (convert
    RESIDE's `.mat` files first). A photograph without a depth map keeps the drawn depth.

    A record names the file, relative to its folder, in `Degradation.field`; with the same folders it replays.

    Args:
        snow_masks: folder of masks, or None.
        depths: folder of depth maps, or None.

    Raises:
        ValueError: a folder holds no picture.
    """

    def __init__(self, snow_masks: str | os.PathLike | None = None, depths: str | os.PathLike | None = None) -> None:
        self._folders = {"snow": snow_masks, "haze": depths}
        self._masks = _list_fields("snow_masks", snow_masks)
        self._depths = {_stem(name): name for name in _list_fields("depths", depths)}

    def assign(
        self, record: Sequence[Degradation], file_name: str, rng: np.random.Generator
    ) -> tuple[Degradation, ...]:
        """Name a real field in each degradation that can have one.

        Args:
            record: as drawn.
            file_name: of the photograph, relative to its folder.
            rng: draws the mask.
        """
        assigned = []
        for degradation in record:
            field = ""
            if degradation.kind == "snow" and self._masks:
                field = self._masks[int(rng.integers(len(self._masks)))]
            elif degradation.kind == "haze":
                field = self._depths.get(_stem(file_name), "")
            assigned.append(replace(degradation, field=field))
        return tuple(assigned)

    def open(self, record: Sequence[Degradation], height: int, width: int) -> dict[str, np.ndarray]:
        """Read the fields that a record names, as `apply_degradations` takes them.

        Args:
            record: the degradations.
            height: rows of the photograph.
            width: columns of the photograph.

        Returns:
            The field of each kind, float32 in [0, 1]; depths have the photograph's size.

        Raises:
            ValueError: the record names a field, but its folder was not given.
        """
        fields = {}
        for kind, name in ((degradation.kind, degradation.field) for degradation in record if degradation.field):
            if self._folders[kind] is None:
                raise ValueError(
                    f"`record` must name fields of known folders, got {name!r} for {kind}; give its folder"
                )
            fields[kind] = _read_field(Path(self._folders[kind], name))
            if kind == "haze":
                fields[kind] = cv2.resize(fields[kind], (width, height), interpolation=cv2.INTER_AREA)
        return fields


def _stem(file_name: str) -> str:
    return PurePath(file_name).with_suffix("").as_posix()


def _list_fields(argument: str, folder: str | os.PathLike | None) -> list[str]:
    if folder is None:
        return []
    names = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*")]
    fields = sorted(name for name in names if name.lower().endswith(FIELD_SUFFIXES))
    if not fields:
        raise ValueError(
            f"`{argument}` must be a folder of pictures ({', '.join(FIELD_SUFFIXES)}), got none below {folder}; "
            "check its path"
        )
    return fields


def _read_field(path: Path) -> np.ndarray:
    """Read a grey field, (H, W) float32 in [0, 1]."""
    with PIL.Image.open(path) as image:
        is_deep = image.mode.startswith("I")
        grey = np.asarray(image if is_deep else image.convert("L"), np.float32)
    return grey / (65535 if is_deep else 255)
