"""Folders of clean photographs as a dataset, from which degraded pictures are made on the fly."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import PIL.Image
from datasets.fingerprint import Hasher
from tqdm.contrib.concurrent import thread_map

logger = datasets.logging.get_logger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

Folders = str | os.PathLike | Sequence[str | os.PathLike]


class Photograph(NamedTuple):
    """One file of a clean corpus, as listed.

    Attributes:
        path: absolute path, links resolved.
        file_name: path relative to the folder that was given, with forward slashes.
        size: bytes.
        mtime_ns: time of the last change, nanoseconds.
    """

    path: str
    file_name: str
    size: int
    mtime_ns: int


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
    found = []
    for parent, _, names in os.walk(root, onerror=_refuse_to_skip, followlinks=True):
        found += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    if not found:
        raise ValueError(f"`folders` must hold pictures ({', '.join(SUFFIXES)}), got none below {root}; {advice}")
    return sorted((_to_photograph(path, root) for path in found), key=attrgetter("file_name"))


def _refuse_to_skip(error: OSError) -> None:
    # os.walk passes over folders that it cannot read, unless told otherwise.
    raise error


def _to_photograph(path: Path, root: Path) -> Photograph:
    file_name = path.relative_to(root).as_posix()
    if not path.exists():
        # A broken link: the report of unreadable files will name it.
        return Photograph(str(path), file_name, 0, 0)
    stat = path.stat()
    return Photograph(str(path.resolve()), file_name, stat.st_size, stat.st_mtime_ns)


def find_fault(path: str) -> str | None:
    """Say why a file cannot serve as a clean photograph.

    The file is decoded to its end: a truncated one still has a good header.

    Args:
        path: picture file.

    Returns:
        The reason, or None when Pillow reads it as an opaque picture with 8 bits a channel.
    """
    try:
        with PIL.Image.open(path) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                return f"mode {image.mode} has more than 8 bits a channel"
            if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                return "it has transparent pixels"
    # Pillow's readers raise almost anything for files that are not what they say.
    except Exception as error:
        return str(error)
    return None


def _report_faults(faults: dict[str, str], total: int) -> str:
    """Write the report of the files that cannot be used, one line each; empty when there are none."""
    if not faults:
        return ""
    lines = "".join(f"\n  {path}: {reason}" for path, reason in faults.items())
    return f"{len(faults)} of {total} pictures cannot be used; mend or remove them:{lines}"


@dataclass(eq=False)
class SyntheticRestorationConfig(datasets.BuilderConfig):
    """Which clean photographs to read.

    Attributes:
        folders: one folder or several, searched recursively.
        strict: refuse the whole corpus when a picture cannot be read, instead of leaving it out with a report.
    """

    folders: Folders = ()
    strict: bool = False

    @cached_property
    def photographs(self) -> list[Photograph]:
        """Files found, listed once."""
        return list_photographs(self.folders)

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name the cache after the listing, so that a changed, added or removed file makes a new one.

        Args:
            config_kwargs: unused: everything they say is in the listing.
            custom_features: unused: the columns are fixed.
        """
        return f"{self.name}-{Hasher.hash([[tuple(photograph) for photograph in self.photographs], self.strict])}"


class SyntheticRestoration(datasets.GeneratorBasedBuilder):
    """Builder over folders of clean photographs (png, jpg, webp, bmp, tif).

    Columns: `clean`, the photograph, RGB, stored as a path: photographs stay where they are, the cache holds some
    hundred bytes for each, and publishing embeds the files; `file_name`, relative to its folder; `index`, its place in
    the listing.

    Give `dataset_name`, because `datasets` names the cache after this module otherwise.
    """

    BUILDER_CONFIG_CLASS = SyntheticRestorationConfig

    def _info(self) -> datasets.DatasetInfo:
        features = {
            "clean": datasets.Image(mode="RGB"),
            "file_name": datasets.Value("string"),
            "index": datasets.Value("int64"),
        }
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        photographs = self.config.photographs
        paths = [photograph.path for photograph in photographs]
        reasons = thread_map(
            find_fault, paths, max_workers=os.cpu_count(), tqdm_class=datasets.utils.tqdm, desc="Checking photographs"
        )
        faults = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}
        report = _report_faults(faults, len(paths))
        if faults and (self.config.strict or len(faults) == len(paths)):
            raise ValueError(f"`folders` must hold readable pictures, got: {report}")
        # The description is stored with the cache, so that the report is given again when the cache is used.
        self.info.description = report
        sound = [
            (index, photograph.path, photograph.file_name)
            for index, photograph in enumerate(photographs)
            if photograph.path not in faults
        ]
        # One list: `datasets` shards it over processes, ranks and workers.
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={"photographs": sound})]

    def _generate_examples(self, photographs: list[tuple[int, str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, path, file_name in photographs:
            yield index, {"clean": path, "file_name": file_name, "index": index}


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
    builder = SyntheticRestoration(
        cache_dir=cache_dir, dataset_name="clean_photographs", folders=_as_tuple(folders), strict=strict
    )
    builder.download_and_prepare()
    if builder.info.description:
        logger.warning(builder.info.description)
    return builder.as_dataset(split="train")
