"""Folders of clean photographs as a dataset: alone, or each with a degraded picture made by a named recipe."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
from datasets.fingerprint import Hasher

from .degradation_recipes import RECIPES, DegradationRecipe, RealFields, name_task, to_record
from .degradations import KINDS, apply_degradations, to_grey
from .pairing import SUFFIXES, Photograph, find_faults, format_faults, list_pictures
from .transforms import to_float

logger = datasets.logging.get_logger(__name__)

Folders = str | os.PathLike | Sequence[str | os.PathLike]


def list_photographs(folders: Folders) -> list[Photograph]:
    """List the picture files below some folders, sorted by name; hidden files are passed over, links are followed.

    Args:
        folders: one folder or several, none inside another.

    Raises:
        ValueError: no folder is given, one holds no picture, or a picture is reached twice.
        FileNotFoundError: a folder does not exist.
        NotADirectoryError: it is a file.
        PermissionError: it, or a folder below it, cannot be read.
    """
    roots = [Path(folder).resolve() for folder in _as_tuple(folders)]
    if not roots:
        raise ValueError("`folders` must name at least one folder, got none; give the folder of clean photographs")
    listing = [photograph for root in roots for photograph in _list_folder(root)]
    path, times = Counter(photograph.path for photograph in listing).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"`folders` must reach each picture once, got {path} {times} times; name no folder twice or inside another"
        )
    return listing


def _as_tuple(folders: Folders) -> tuple[str | os.PathLike, ...]:
    return (folders,) if isinstance(folders, str | os.PathLike) else tuple(folders)


def _list_folder(root: Path) -> list[Photograph]:
    advice = "check the path of the clean photographs"
    if not root.exists():
        raise FileNotFoundError(f"`folders` must exist, got {root}; {advice}")
    if not root.is_dir():
        raise NotADirectoryError(f"`folders` must be folders, got the file {root}; {advice}")
    photographs = list_pictures(root)
    if not photographs:
        raise ValueError(f"`folders` must hold pictures ({', '.join(SUFFIXES)}), got none below {root}; {advice}")
    return photographs


@dataclass(eq=False)
class SyntheticRestorationConfig(datasets.BuilderConfig):
    """Which clean photographs to read, and how to degrade them.

    Attributes:
        folders: one folder or several, searched recursively.
        strict: refuse the whole corpus when a picture cannot be read, instead of leaving it out with a report.
        recipe: how each photograph is degraded; None leaves the clean photographs alone.
        seed: non-negative; with a photograph's place in the listing it decides all that is drawn.
        snow_masks: folder of real snow masks, or None.
        depths: folder of real depth maps, or None.
    """

    folders: Folders = ()
    strict: bool = False
    recipe: DegradationRecipe | None = None
    seed: int = 0
    snow_masks: str | os.PathLike | None = None
    depths: str | os.PathLike | None = None

    @cached_property
    def photographs(self) -> list[Photograph]:
        """Files found, listed once."""
        return list_photographs(self.folders)

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name the cache after the listing, so that a changed, added or removed file makes a new one.

        Args:
            config_kwargs: unused: everything they say is hashed here.
            custom_features: unused: the columns are fixed.
        """
        fields = [list_photographs(folder) for folder in (self.snow_masks, self.depths) if folder is not None]
        listing = [[tuple(photograph) for photograph in photographs] for photographs in (self.photographs, *fields)]
        return f"{self.name}-{Hasher.hash([listing, self.strict, repr(self.recipe), self.seed])}"


class SyntheticRestoration(datasets.GeneratorBasedBuilder):
    """Builder over folders of clean photographs, in any of `SUFFIXES`: one config for each recipe, and "clean".

    Columns of every config: `clean`, the photograph, RGB, stored as a path: photographs stay where they are, the cache
    holds some hundred bytes for each, and publishing embeds the files; `file_name`, relative to its folder; `index`,
    its place in the listing. Columns of a recipe: `degraded`, RGB, 8 bits, stored as PNG; `task`, the kinds, joined by
    `+`; `severity`, the strongest kind's; `record`, from which the degradation replays. Where the recipe turned the
    photograph grey, `clean` is stored as PNG too.

    Give `dataset_name`, because `datasets` names the cache after this module otherwise.
    """

    BUILDER_CONFIG_CLASS = SyntheticRestorationConfig
    BUILDER_CONFIGS = [
        SyntheticRestorationConfig(name="clean"),
        *(SyntheticRestorationConfig(name=name, recipe=recipe) for name, recipe in RECIPES.items()),
    ]
    DEFAULT_CONFIG_NAME = "clean"

    def _info(self) -> datasets.DatasetInfo:
        picture, text = datasets.Image(mode="RGB"), datasets.Value("string")
        features = {"clean": picture, "file_name": text, "index": datasets.Value("int64")}
        if self.config.recipe is not None:
            labels = {"task": text, "severity": datasets.Value("float32"), "record": text}
            features = {"degraded": picture, "clean": picture, **labels, **features}
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        photographs = self.config.photographs
        paths = [photograph.path for photograph in photographs]
        # A stream begins at once: it trusts the headers, where a table decodes every file once.
        faults = find_faults(paths, decode=not dl_manager.is_streaming)
        if faults:
            # The description is stored with the cache, so that the report is given again when the cache is used.
            self.info.description = (
                f"{len(faults)} of {len(paths)} pictures cannot be used; mend or remove them:{format_faults(faults)}"
            )
        if faults and (self.config.strict or len(faults) == len(paths)):
            raise ValueError(f"`folders` must hold readable pictures, got: {self.info.description}")
        faulty = {fault.path for fault in faults}
        sound = [
            (index, photograph.path, photograph.file_name)
            for index, photograph in enumerate(photographs)
            if photograph.path not in faulty
        ]
        # One list: `datasets` shards it over processes, ranks and workers.
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={"photographs": sound})]

    def _generate_examples(self, photographs: list[tuple[int, str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
        fields = RealFields(self.config.snow_masks, self.config.depths)
        for index, path, file_name in photographs:
            example = {"clean": path, "file_name": file_name, "index": index}
            if self.config.recipe is not None:
                rng = np.random.default_rng((self.config.seed, index))
                example |= degrade_photograph(path, file_name, self.config.recipe, fields, rng)
            yield index, example


def degrade_photograph(
    path: str, file_name: str, recipe: DegradationRecipe, fields: RealFields, rng: np.random.Generator
) -> dict[str, Any]:
    """Degrade a whole photograph, and round it to the 8 bits of a file.

    Args:
        path: of the photograph.
        file_name: by which a depth map is found.
        recipe: how it is degraded.
        fields: real masks and depths.
        rng: source of all that is random.

    Returns:
        The columns that `SyntheticRestoration` adds to a clean photograph.
    """
    clean = to_float(np.asarray(datasets.Image(mode="RGB").decode_example({"path": path, "bytes": None})))
    record = fields.assign(recipe.draw(rng), file_name, rng)
    degraded = apply_degradations(clean, record, fields=fields.open(record, *clean.shape[:2]))
    columns = {
        "degraded": _to_png(degraded),
        "task": name_task(record),
        "severity": max((degradation.severity for degradation in record if degradation.kind in KINDS), default=0.0),
        "record": to_record(record),
    }
    if "grey" in {degradation.kind for degradation in record}:
        columns["clean"] = _to_png(to_grey(clean))
    return columns


def _to_png(image: np.ndarray) -> dict[str, Any]:
    file = BytesIO()
    PIL.Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}


def load_clean_photographs(
    folders: Folders, *, cache_dir: str | os.PathLike | None = None, strict: bool = False
) -> datasets.Dataset:
    """Load folders of clean photographs; pictures are decoded on access.

    Files that cannot be used are left out, and one warning lists them.

    Args:
        folders: one folder or several, searched recursively; none inside another.
        cache_dir: where `datasets` keeps its tables; None for its own choice.
        strict: raise instead of leaving files out.

    Returns:
        Columns `clean` (RGB picture), `file_name` (relative to its folder) and `index` (place in the listing).

    Raises:
        ValueError: no folder is given, one holds no picture, two overlap, no picture can be read, or not every one
            and `strict` is set.
        OSError: a folder is missing or cannot be read.
    """
    return _load("clean", folders, streaming=False, cache_dir=cache_dir, strict=strict)


def load_synthetic(
    name: str, folders: Folders, *, streaming: bool = False, **options: Any
) -> datasets.Dataset | datasets.IterableDataset:
    """Load pairs made of clean photographs by a recipe: the same pairs for the same name, seed and files.

    Args:
        name: one of `RECIPES`.
        folders: one folder or several of clean photographs.
        streaming: degrade each photograph when it is reached, and store nothing.
        options: `seed`, `snow_masks`, `depths`, `strict` of `SyntheticRestorationConfig`, and `cache_dir`.

    Returns:
        The columns of `SyntheticRestoration`.

    Raises:
        ValueError: as `load_clean_photographs`, or the name is unknown, or the seed negative.
        OSError: a folder is missing or cannot be read.
    """
    if name not in RECIPES:
        raise ValueError(f"`name` must be one of {', '.join(RECIPES)}, got {name!r}; check the spelling")
    if options.get("seed", 0) < 0:
        raise ValueError(f"`seed` must be at least 0, got {options['seed']}; use any non-negative integer")
    return _load(name, folders, streaming=streaming, **options)


def _load(name: str, folders: Folders, *, streaming: bool, **options: Any) -> Any:
    builder = SyntheticRestoration(
        config_name=name, dataset_name="clean_photographs", folders=_as_tuple(folders), **options
    )
    if streaming:
        dataset = builder.as_streaming_dataset(split="train")
    else:
        builder.download_and_prepare()
        dataset = builder.as_dataset(split="train")
    if builder.info.description:
        logger.warning(builder.info.description)
    return dataset
