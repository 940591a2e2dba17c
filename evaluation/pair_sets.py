"""Named sets of pairs to measure on: published corpora, any two folders, and clean pictures that are degraded here.

Opening a set reads names alone. Each pair is read when its turn comes, so that a broken file costs itself only.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dataset_scripts import CORPORA, KINDS, MIXTURES, RECIPES, UNSEEN, apply_degradations, sample_degradation
from dataset_scripts.catalog import PLAIN_FOLDERS, Corpus
from dataset_scripts.pairing import (
    Fault,
    Pair,
    Photograph,
    SplitFolder,
    find_fault,
    format_faults,
    list_pictures,
    locate_split,
    pair_by_name,
)
from dataset_scripts.synthetic_restoration import list_photographs
from dataset_scripts.transforms import to_float
from modeling_dpmambair import read_picture

# Pictures of a clean corpus are degraded as `load_restoration_dataset` degrades them with its own default.
RECIPE_SEED = 0

Degrade = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Entry:
    """A pair of a set, not yet read.

    Attributes:
        index: place among all that the set's names make; broken files do not move it.
        name: file name.
        read: returns the degraded and the clean picture, RGB, 8 bit, of one size; raises `OSError` or `ValueError`.
    """

    index: int
    name: str
    read: Callable[[], tuple[Image.Image, Image.Image]]


@dataclass(frozen=True)
class PairSet:
    """A set of pairs.

    Attributes:
        name: by which results and the paper's figures know it.
        task: what the degraded pictures suffer: one of `KINDS` or of `UNSEEN`, several joined by `+`, or "mixed".
        folder: name of the folder that it came from.
        published: number of pairs of the whole corpus; None where nobody fixed it.
        listing: checksum of names and sizes of the files.
        entries: the pairs.
    """

    name: str
    task: str
    folder: str
    published: int | None
    listing: str
    entries: tuple[Entry, ...]


def read_clean(path: str) -> Image.Image:
    """Read a picture upright, RGB.

    Args:
        path: an opaque picture with 8 bits a channel.

    Raises:
        ValueError: it is none.
    """
    if fault := find_fault(path):
        raise ValueError(f"{path}: {fault}")
    return read_picture(path).image.convert("RGB")


def read_pair(pair: Pair, border: int = 0) -> tuple[Image.Image, Image.Image]:
    """Read both pictures of a pair.

    Args:
        pair: their paths.
        border: pixels on each side by which the clean picture may be larger; they are cut off.

    Raises:
        ValueError: a file is no opaque picture with 8 bits a channel, or they differ in size.
    """
    degraded, clean = read_clean(pair.degraded), read_clean(pair.clean)
    if border and clean.size == tuple(side + 2 * border for side in degraded.size):
        clean = ImageOps.crop(clean, border)
    if clean.size != degraded.size:
        (width, height), (clean_width, clean_height) = degraded.size, clean.size
        raise ValueError(
            f"{pair.clean}: the clean picture must have {width} x {height} pixels like the degraded one, "
            f"got {clean_width} x {clean_height}"
        )
    return degraded, clean


def degrade_file(path: str, degrade: Degrade) -> tuple[Image.Image, Image.Image]:
    """Read a clean picture and degrade it, to 8 bits, because that is what people's files hold.

    Args:
        path: of the clean picture.
        degrade: maps (H, W, 3) float32, RGB in [0, 1], to the same.

    Raises:
        ValueError: the file is no opaque picture with 8 bits a channel.
    """
    clean = read_clean(path)
    degraded = degrade(to_float(np.asarray(clean)))
    return Image.fromarray(np.rint(degraded * 255).astype(np.uint8)), clean


def degrade_by_task(clean: np.ndarray, task: str, severity: float, seed: Sequence[int]) -> np.ndarray:
    """Degrade a picture in one way, or in several at once.

    Args:
        clean: (H, W, 3) float32, RGB in [0, 1].
        task: one of `KINDS` or of `UNSEEN`, or several kinds joined by `+`.
        severity: of each kind, in [0, 1]; those of `UNSEEN` have none.
        seed: fixes every draw.

    Returns:
        The degraded picture, likewise.
    """
    rng = np.random.default_rng(seed)
    if task in UNSEEN:
        return UNSEEN[task](clean, rng)
    return apply_degradations(clean, [sample_degradation(kind, severity, rng) for kind in task.split("+")])


def degrade_by_recipe(clean: np.ndarray, recipe: str, index: int) -> np.ndarray:
    """Degrade a picture as `load_restoration_dataset` does that of this place, or in a way of `UNSEEN`.

    Args:
        clean: (H, W, 3) float32, RGB in [0, 1].
        recipe: one of `RECIPES` or of `UNSEEN`.
        index: place of the picture in its set.

    Returns:
        The degraded picture, likewise.
    """
    rng = np.random.default_rng((RECIPE_SEED, index))
    return UNSEEN[recipe](clean, rng) if recipe in UNSEEN else apply_degradations(clean, RECIPES[recipe].draw(rng))


def open_folders(degraded: Path, clean: Path) -> PairSet:
    """Open any two folders; pictures of equal names, whatever their suffixes, are pairs.

    Args:
        degraded: folder of the degraded pictures.
        clean: folder of the clean ones.

    Raises:
        ValueError: a picture has no partner, or there is none at all.
        OSError: a folder is missing or cannot be read.
    """
    photographs = [
        photograph._replace(file_name=f"{role}/{photograph.file_name}")
        for role, folder in (("degraded", degraded), ("clean", clean))
        for photograph in _list_existing(folder)
    ]
    plain = SplitFolder(CORPORA["paired_folders"], "test", degraded, PLAIN_FOLDERS, tuple(photographs))
    # Of a folder that is called `degraded` the one above tells more.
    name = degraded.resolve().parent.name if degraded.name == "degraded" else degraded.resolve().name
    return PairSet(name, "mixed", name, None, _hash_listing(photographs), _pair_entries(plain))


def _list_existing(folder: Path) -> list[Photograph]:
    if not folder.is_dir():
        raise FileNotFoundError(f"folders of pairs must exist, got {folder}; check the path")
    return list_pictures(folder)


def open_corpora(names: str, data_dir: Path) -> list[PairSet]:
    """Open published corpora, or what is at hand of them.

    Args:
        names: a corpus of `CORPORA`, several joined to one set by `+`, and after a slash the recipe of `RECIPES`, or
            the way of `UNSEEN`, by which clean pictures are degraded; or a protocol of `MIXTURES`; or several of all
            these with commas between.
        data_dir: the corpus as unpacked, or a folder that holds a folder of each corpus' name. In place of its own
            layout a corpus, or a sample of it, may lie in `degraded` and `clean`.

    Returns:
        A set for each name, in that order; for a protocol one for each of its tasks.

    Raises:
        ValueError: a name is unknown, a recipe is missing or one too many, or a picture has no partner.
        OSError: a folder is missing, cannot be read, or does not look like its corpus.
    """
    return [_open_set(name, data_dir) for name in list_names(names)]


def list_names(names: str) -> Iterator[str]:
    """Yield the name of each set that `open_corpora` opens: for a protocol those of its tasks."""
    for name in names.split(","):
        if name not in MIXTURES:
            yield name
            continue
        for _, test in MIXTURES[name].values():
            joined = "+".join(corpus for corpus, _ in test.corpora)
            yield f"{joined}/{test.recipe}" if test.recipe else joined


def _open_set(name: str, data_dir: Path) -> PairSet:
    joined, _, recipe = name.partition("/")
    corpora = joined.split("+")
    if unknown := [corpus for corpus in corpora if corpus not in CORPORA]:
        raise ValueError(
            f"`names` must be corpora ({', '.join(CORPORA)}) or protocols ({', '.join(MIXTURES)}), "
            f"got {unknown[0]!r}; check the spelling"
        )
    if recipe and recipe not in (*RECIPES, *UNSEEN):
        raise ValueError(
            f"`names` must give recipes that exist ({', '.join((*RECIPES, *UNSEEN))}), got {recipe!r}; "
            "check the spelling"
        )
    folders = [_locate(CORPORA[corpus], data_dir) for corpus in corpora]
    is_clean = {folder.layout.degraded is None for folder in folders}
    if is_clean != {bool(recipe)}:
        wanted = (
            "no recipe, because its pictures are degraded" if recipe else "a recipe, because its pictures are clean"
        )
        raise ValueError(
            f"`names` must give {joined} {wanted}, got {name!r}; write NAME for pairs, NAME/RECIPE for clean"
        )
    entries = [entry for folder in folders for entry in _pair_entries(folder, recipe)]
    listing = _hash_listing([photograph for folder in folders for photograph in folder.photographs])
    counts = [folder.layout.count or folder.corpus.splits[folder.split].count for folder in folders]
    return PairSet(
        name,
        _name_task(folders, recipe),
        data_dir.resolve().name if len(folders) > 1 else folders[0].root.name,
        sum(counts) if None not in counts else None,
        listing,
        tuple(replace(entry, index=index) for index, entry in enumerate(entries)),
    )


def _locate(corpus: Corpus, data_dir: Path) -> SplitFolder:
    """Find a corpus, in its own layout or in two folders, `degraded` and `clean`."""
    folder = data_dir / corpus.name if (data_dir / corpus.name).is_dir() else data_dir
    name = "test" if "test" in corpus.splits else next(iter(corpus.splits))
    split = corpus.splits[name]
    if split.layouts[0].degraded and (folder / "degraded").is_dir() and (folder / "clean").is_dir():
        plain = replace(PLAIN_FOLDERS, clean_border=split.layouts[0].clean_border)
        corpus = replace(corpus, splits={name: replace(split, folders=(".",), layouts=(plain,))})
    return locate_split(corpus, name, folder)


def _name_task(folders: Sequence[SplitFolder], recipe: str) -> str:
    if recipe in UNSEEN:
        return recipe
    if recipe:
        kinds = RECIPES[recipe].kinds
        return kinds[0] if len(kinds) == 1 else "mixed"
    tasks = {folder.corpus.task for folder in folders}
    return tasks.pop() if len(tasks) == 1 else "mixed"


def _pair_entries(folder: SplitFolder, recipe: str = "") -> tuple[Entry, ...]:
    pairs, faults = pair_by_name(folder)
    if faults:
        raise ValueError(
            f"pictures must be in pairs, got {len(faults)} that are not; remove or rename them:{_shorten(faults)}"
        )
    if not pairs:
        raise ValueError(f"there must be at least one pair, got none in {folder.root}; check the path")
    if not recipe:
        return tuple(
            Entry(pair.index, pair.name, partial(read_pair, pair, folder.layout.clean_border)) for pair in pairs
        )
    return tuple(
        Entry(
            pair.index,
            pair.name,
            partial(degrade_file, pair.clean, partial(degrade_by_recipe, recipe=recipe, index=pair.index)),
        )
        for pair in pairs
    )


SHOWN_FAULTS = 20


def _shorten(faults: Sequence[Fault]) -> str:
    more = f"\n  and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    return format_faults(faults[:SHOWN_FAULTS]) + more


def _hash_listing(photographs: Sequence[Photograph]) -> str:
    lines = "\n".join(f"{photograph.file_name} {photograph.size}" for photograph in photographs)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Benchmark:
    """A synthetic benchmark: which degradations every clean picture suffers.

    Attributes:
        name: the benchmark's key in `configuration/benchmarks.json`.
        description: what it measures, in one line.
        kinds: the degradations, a set of pairs each: of `KINDS`, several of them joined by `+`, or of `UNSEEN`.
        severity: strength of each, in [0, 1].
        seed: fixes every random parameter, together with the positions of the degradation and of the picture.

    Raises:
        ValueError: a degradation is unknown.
    """

    name: str
    description: str
    kinds: tuple[str, ...]
    severity: float
    seed: int

    def __post_init__(self) -> None:
        for task in self.kinds:
            if task not in UNSEEN and not set(task.split("+")) <= set(KINDS):
                raise ValueError(
                    f"`kinds` must be of {', '.join((*KINDS, *UNSEEN))}, or kinds joined by +, got {task!r}; "
                    "correct the benchmark"
                )


def open_benchmark(benchmark: Benchmark, clean: Path) -> list[PairSet]:
    """Degrade a folder of clean pictures in each way of a benchmark.

    Args:
        benchmark: the ways.
        clean: folder of the clean pictures, searched in depth; their places in it fix what is drawn for them.

    Returns:
        A set for each way.

    Raises:
        ValueError: the folder holds no picture.
        OSError: it is missing or cannot be read.
    """
    photographs = list_photographs(clean)
    listing, sets = _hash_listing(photographs), []
    for kind_index, task in enumerate(benchmark.kinds):
        entries = []
        for index, photograph in enumerate(photographs):
            seed = (benchmark.seed, kind_index, index)
            degrade = partial(degrade_by_task, task=task, severity=benchmark.severity, seed=seed)
            entries.append(Entry(index, photograph.file_name, partial(degrade_file, photograph.path, degrade)))
        sets.append(PairSet(task, task, clean.resolve().name, None, listing, tuple(entries)))
    return sets
