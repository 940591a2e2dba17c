"""One patch of a degraded and a clean picture, drawn on the fly (Eq. 6, arXiv:2504.17732).

Only the part of a picture that the patch needs is decoded, where the file allows it, and degraded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from .decoding import Memory, Pictures, shrink
from .degradation_recipes import (
    DegradationRecipe,
    RealFields,
    from_record,
    mark_kinds,
    name_task,
    severity_of,
    to_record,
)
from .degradations import Degradation, apply_degradations, to_grey
from .transforms import (
    OrientedPicture,
    Window,
    crop,
    grow_window,
    sample_orientation,
    sample_window,
    to_float,
    to_tensor,
)

# Side of the squares that JPEG codes together at 4:2:0, and how far beyond a patch its colours come from, pixels.
JPEG_BLOCK, JPEG_REACH = 16, 2
# How far away the light of motion blur comes from at most, pixels: plain, varied, and where its motion is uneven,
# which adds 14 pixels of zoom and roll in a corner and one of interpolation.
BLUR_REACH, VARIED_BLUR_REACH, UNEVEN_BLUR_REACH = 11, 21, 36


@dataclass(frozen=True)
class RestorationSet:
    """Pictures from which patches are drawn: real pairs, or clean photographs and how to degrade them.

    Attributes:
        dataset: has the column `clean`; real pairs also `degraded`, `task` and `record`, depth maps `file_name`.
        recipe: how clean photographs are degraded; None for real pairs.
        fields: real snow masks and depth maps, for a recipe.
        scales: range, within (0, 1], of the factor by which a clean photograph is shrunk before it is degraded, drawn
            evenly over its logarithm, so that patches show more of a scene; never so far that it is smaller than the
            patch.

    Raises:
        ValueError: `dataset` lacks a column, `scales` leave their range, or pairs are to be shrunk.
    """

    dataset: datasets.Dataset
    recipe: DegradationRecipe | None = None
    fields: RealFields | None = None
    scales: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.scales[0] <= self.scales[1] <= 1:
            raise ValueError(f"`scales` must be ascending and within (0, 1], got {self.scales}; correct them")
        if self.scales[0] < 1 and self.recipe is None:
            raise ValueError(f"`scales` must be (1, 1) for pairs, got {self.scales}; shrinking undoes degradation")
        needed = {"clean", "file_name"} if self.fields else {"clean"}
        if self.recipe is None:
            needed = {"clean", "degraded", "task", "record"}
        if missing := needed - set(self.dataset.column_names):
            raise ValueError(
                f"`dataset` must have the columns {sorted(needed)}, got none named {sorted(missing)}; "
                "load it with `load_restoration_dataset`, or give clean photographs a recipe"
            )

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.dataset)


def degrade_window(
    picture: OrientedPicture,
    window: Window,
    record: Sequence[Degradation],
    fields: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Degrade a patch as it would be inside the whole picture.

    Args:
        picture: the whole picture.
        window: where the patch lies.
        record: what happens to the picture.
        fields: real fields that the record names, of the whole picture.

    Returns:
        The degraded patch and the clean one, (window.height, window.width, 3) float32 in [0, 1].
    """
    height, width = picture.height, picture.width
    kinds = {degradation.kind: degradation for degradation in record}
    context = window
    for _ in kinds.keys() & {"jpeg", "file_jpeg"}:
        context = grow_window(context, JPEG_REACH, height, width, step=JPEG_BLOCK)
    if blur := kinds.get("blur"):
        context = grow_window(context, _blur_reach(blur.parameters), height, width)
    clean = to_float(picture.read(context))
    if "grey" in kinds:
        clean = to_grey(clean)
    degraded = apply_degradations(
        clean, record, origin=(context.top, context.left), size=(height, width), fields=fields
    )
    inside = Window(window.top - context.top, window.left - context.left, window.height, window.width)
    return crop(degraded, inside), crop(clean, inside)


def _blur_reach(parameters: Mapping[str, float]) -> int:
    if parameters.get("parallax", 0) > 0:
        return UNEVEN_BLUR_REACH
    return VARIED_BLUR_REACH if "stretch" in parameters else BLUR_REACH


class PatchSource:
    """Draws one patch at a time from a set.

    Args:
        members: the set.
        memory: for decoded pictures.
    """

    def __init__(self, members: RestorationSet, memory: Memory) -> None:
        self._members = members
        self._clean = Pictures(members.dataset, "clean", memory)
        if members.recipe is None:
            self._degraded = Pictures(members.dataset, "degraded", memory)
            self._labels = members.dataset.select_columns(["task", "record"])
        elif members.fields is not None:
            self._names = members.dataset.select_columns("file_name")

    def draw(self, index: int, patch_size: int, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a patch; see `PatchDataset.__getitem__`.

        Args:
            index: position of the picture in the set.
            patch_size: side, pixels.
            rng: source of all that is random.
        """
        if self._members.recipe is None:
            return self._draw_pair(index, patch_size, rng)
        # The record comes first, so that it does not depend on the picture's size or the patch's.
        record = self._draw_record(index, rng)
        stored = shrink(self._clean[index], self._members.scales, patch_size, rng)
        clean = OrientedPicture(stored, sample_orientation(rng), patch_size)
        window = sample_window(clean.height, clean.width, patch_size, rng)
        fields = self._members.fields.open(record, stored.height, stored.width) if self._members.fields else {}
        if "haze" in fields:
            fields["haze"] = clean.prepare(fields["haze"][..., None])[..., 0]
        degraded, patch = degrade_window(clean, window, record, fields)
        return {
            "pixel_values": to_tensor(degraded),
            "labels": to_tensor(patch),
            "task": name_task(record),
            "severity": severity_of(record),
            "record": to_record(record),
        }

    def _draw_record(self, index: int, rng: np.random.Generator) -> tuple[Degradation, ...]:
        record = self._members.recipe.draw(rng)
        if self._members.fields is None:
            return record
        return self._members.fields.assign(record, self._names[index]["file_name"], rng)

    def _draw_pair(self, index: int, patch_size: int, rng: np.random.Generator) -> dict[str, Any]:
        orientation = sample_orientation(rng)
        stored = (self._degraded[index], self._clean[index])
        sizes = [f"{picture.height} x {picture.width}" for picture in stored]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"`dataset` must hold pairs of one size, got {' beside '.join(sizes)} at index {index}; "
                "see `python -m dataset_scripts verify`"
            )
        degraded, clean = (OrientedPicture(picture, orientation, patch_size) for picture in stored)
        window = sample_window(clean.height, clean.width, patch_size, rng)
        labels = self._labels[index]
        return {
            "pixel_values": to_tensor(to_float(degraded.read(window))),
            "labels": to_tensor(to_float(clean.read(window))),
            "task": labels["task"],
            "severity": severity_of(from_record(labels["record"])) if labels["record"] else mark_kinds(labels["task"]),
            "record": labels["record"],
        }
