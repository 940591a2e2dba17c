"""Folders of a corpus become verified pairs of degraded and clean pictures.

Names decide which clean picture belongs to which degraded one, by the layout of the corpus (`catalog`). What does not
fit, in name, number, size or content, is listed with its path; nothing is dropped without a word.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import datasets
import PIL.ExifTags
import PIL.features
import PIL.Image
from tqdm.contrib.concurrent import thread_map

from .catalog import Corpus, Layout

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff")
# What such files may hold whatever their names say: Pillow would open others too, and run another program for EPS.
FORMATS = ("AVIF", "BMP", "JPEG", "PNG", "TIFF", "WEBP")
# Deraining corpora travel in many layouts; an error shows the usual ones.
SHOWN_LAYOUTS = 2


class Photograph(NamedTuple):
    """One picture file, as listed.

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


class Fault(NamedTuple):
    """Why a picture cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    path: str
    reason: str


class Pair(NamedTuple):
    """A degraded picture and what it should look like.

    Attributes:
        degraded: absolute path; None in corpora of clean pictures only.
        clean: absolute path.
        name: path of the degraded picture (else the clean one) relative to the folder where the layout begins.
        task: one of `KINDS` or `UNSEEN`, several kinds joined by "+", "mixed" when it is unknown, or "clean" without a
            degraded picture.
        index: place among all pairs that the names make; it stays when faulty files are mended.
        clean_border: pixels to cut off each side of the clean picture.
    """

    degraded: str | None
    clean: str
    name: str
    task: str
    index: int
    clean_border: int = 0


def list_pictures(root: Path) -> list[Photograph]:
    """List the picture files below a folder, sorted by name.

    Hidden files are passed over, links are followed, unless they lead in a circle.

    Args:
        root: an existing folder.

    Raises:
        PermissionError: a folder cannot be read.
    """
    found = []
    for parent, folders, names in os.walk(root, onerror=_refuse_to_skip, followlinks=True):
        folders[:] = [name for name in folders if not _leads_back(Path(parent, name), root)]
        found += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    return sorted((_to_photograph(path, root) for path in found), key=attrgetter("file_name"))


def _refuse_to_skip(error: OSError) -> None:
    # os.walk passes over folders that it cannot read, unless told otherwise.
    raise error


def _leads_back(folder: Path, root: Path) -> bool:
    """Tell whether a folder is one of those above it, by way of links: everything would come again and again."""
    real, above = folder.resolve(), folder
    while above != root:
        above = above.parent
        if above.resolve() == real:
            return True
    return False


def _to_photograph(path: Path, root: Path) -> Photograph:
    file_name = path.relative_to(root).as_posix()
    if not path.exists():
        # A broken link: the report of unreadable files will name it.
        return Photograph(str(path), file_name, 0, 0)
    stat = path.stat()
    return Photograph(str(path.resolve()), file_name, stat.st_size, stat.st_mtime_ns)


def find_fault(path: str, *, decode: bool = True) -> str | None:
    """Say why a file cannot serve as a picture of a pair.

    Args:
        path: picture file.
        decode: decode the file to its end, because a truncated one still has a good header; else read the header only.

    Returns:
        The reason, or None when Pillow reads it as one opaque picture with 8 bits a channel.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        return "it is no regular file"  # to open a pipe would wait for its writer
    if path.lower().endswith(".avif") and not PIL.features.check("avif"):
        return (
            f"`pillow` must be built with AVIF, got Pillow {PIL.__version__} without it; "
            "install pillow 11.3 or newer, or save the picture as PNG"
        )
    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                return f"mode {image.mode} has more than 8 bits a channel"
            # Of colours with 16 bits Pillow keeps the upper 8; only what its decoders are asked for tells of the rest.
            if ";16" in str(image.tile):
                return f"mode {image.mode} with 16 bits a channel has more than 8"
            # The further pictures of a JPEG are previews and depth maps.
            if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
                return f"it has {frames} frames"
            if decode:
                image.load()
                if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                    return "it has transparent pixels"
    # Pillow's readers raise almost anything for files that are not what they say.
    except Exception as error:
        return str(error)
    return None


def find_faults(paths: Sequence[str], *, decode: bool = True) -> list[Fault]:
    """Find the files that cannot serve as pictures of pairs, in parallel.

    Args:
        paths: picture files.
        decode: decode the files to their ends; else read the headers only.
    """
    check = partial(find_fault, decode=decode)
    progress = {"tqdm_class": datasets.utils.tqdm, "desc": "Checking pictures"}
    reasons = thread_map(check, paths, max_workers=os.cpu_count(), **progress)
    return [Fault(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason is not None]


def format_faults(faults: Iterable[Fault]) -> str:
    """Write faults one a line, each line begun by a line break and two spaces; what moves a cursor is escaped."""
    return "".join(f"\n  {_printable(path)}: {_printable(reason)}" for path, reason in faults)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@dataclass(frozen=True)
class SplitFolder:
    """Where a split of a corpus lies, and in which layout.

    Attributes:
        corpus: what it belongs to.
        split: "train" or "test".
        root: the folder where the layout begins.
        layout: the layout that fits.
        photographs: all pictures below `root`.
    """

    corpus: Corpus
    split: str
    root: Path
    layout: Layout
    photographs: tuple[Photograph, ...]


@dataclass(frozen=True)
class PairingReport:
    """The pairs of a split, and all that is wrong with it; as a string, readable and empty when nothing is.

    Attributes:
        corpus: name of the corpus.
        split: "train" or "test".
        root: the folder where its layout begins.
        pairs: the usable ones, sorted by name.
        unpaired: pictures without their other half, or with several, or that have no place in the layout.
        unequal: degraded pictures whose size differs from the clean one's.
        unreadable: files that are no pictures, or not opaque ones with 8 bits a channel.
        count_expected: published number of pairs; None when it is not fixed.
        count_found: pairs that the names make, usable or not.
    """

    corpus: str
    split: str
    root: Path
    pairs: tuple[Pair, ...]
    unpaired: tuple[Fault, ...]
    unequal: tuple[Fault, ...]
    unreadable: tuple[Fault, ...]
    count_expected: int | None
    count_found: int

    def __str__(self) -> str:
        groups = {"unpaired": self.unpaired, "of unequal size": self.unequal, "unreadable": self.unreadable}
        lines = [
            f"{len(faults)} {label}; mend or remove:{format_faults(faults)}"
            for label, faults in groups.items()
            if faults
        ]
        if self.count_expected not in (None, self.count_found):
            lines.append(
                f"{self.count_expected} pairs are published, {self.count_found} were found; check the download"
            )
        if not lines:
            return ""
        usable = f"{len(self.pairs)} of {self.count_found} pairs can be used"
        return "\n".join([f"{self.corpus}, split {self.split}, in {self.root}: {usable}", *lines])


def find_pairs(corpus: Corpus, split: str, data_dir: str | os.PathLike | None) -> PairingReport:
    """Pair the pictures of a corpus as its layout says, and verify every pair.

    Args:
        corpus: one of `CORPORA`.
        split: "train" or "test".
        data_dir: the corpus' folder, as downloaded and unpacked.

    Raises:
        ValueError: the corpus has no such split, no folder is given, or its pictures fit none of the layouts.
        OSError: the folder is missing, or cannot be read.
    """
    return verify_pairs(locate_split(corpus, split, data_dir))


def locate_split(corpus: Corpus, split: str, data_dir: str | os.PathLike | None) -> SplitFolder:
    """Find where below a folder a split lies and in which of its layouts; nothing is opened.

    Args:
        corpus: one of `CORPORA`.
        split: "train" or "test".
        data_dir: the corpus' folder, as downloaded and unpacked.

    Raises:
        ValueError: the corpus has no such split, or no folder is given.
        FileNotFoundError: the folder is missing, or its pictures fit none of the layouts.
        NotADirectoryError: it is a file.
        PermissionError: it, or a folder below it, cannot be read.
    """
    if split not in corpus.splits:
        raise ValueError(
            f"`split` must be one of {', '.join(corpus.splits)} for {corpus.name}, got {split!r}; choose another"
        )
    advice = describe_layout(corpus, split)
    if data_dir is None:
        raise ValueError(f"`data_dir` must be given, got None; {advice}")
    folder = Path(data_dir).resolve()
    if not folder.exists():
        raise FileNotFoundError(f"`data_dir` must exist, got {folder}; {advice}")
    if not folder.is_dir():
        raise NotADirectoryError(f"`data_dir` must be a folder, got the file {folder}; {advice}")
    roots = [folder / name for name in corpus.splits[split].folders if (folder / name).is_dir()]
    for root in roots:
        photographs = tuple(list_pictures(root))
        for layout in corpus.splits[split].layouts:
            if _fits(layout, photographs):
                return SplitFolder(corpus, split, root, layout, photographs)
    raise FileNotFoundError(f"`data_dir` must hold {corpus.name} as published, got {folder}; {advice}")


def describe_layout(corpus: Corpus, split: str) -> str:
    """Say where a corpus is published and, as small trees, what its folder may look like (the first layouts of many).

    Args:
        corpus: one of `CORPORA`.
        split: one of its splits.
    """
    begin, *others = corpus.splits[split].folders
    trees = "\n or\n".join(_draw_tree(begin, layout) for layout in corpus.splits[split].layouts[:SHOWN_LAYOUTS])
    instead = f"\n {', '.join(others)} may stand in place of {begin}" if others else ""
    return f"get it from {corpus.source} and give the folder that looks like\n{trees}{instead}"


def _draw_tree(begin: str, layout: Layout) -> str:
    drawn, lines = set(), ["  data_dir/"]
    for template in filter(None, (layout.degraded, layout.clean)):
        path = PurePosixPath(begin, template)
        for part in (*reversed(path.parents[:-1]), path):
            if part not in drawn:
                lines.append("  " * (len(part.parts) + 1) + part.name + ("/" if part != path else ""))
        drawn |= {path, *path.parents}
    return "\n".join(lines)


@cache
def _compile(template: str) -> re.Pattern[str]:
    """Turn a template into an expression for a path without its suffix."""
    stem = re.escape(str(PurePosixPath(template).with_suffix("")))
    # re.escape has put a backslash before each brace and star.
    words = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+?)", stem)
    stars = words.replace(r"\*\*/", "(?:.+/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.compile(stars, re.IGNORECASE)


def _find_role(layout: Layout, file_name: str) -> tuple[str, dict[str, str]]:
    """Return a picture's role in a layout ("ignored", "clean", "degraded" or "stray") and the words of its name."""
    stem = PurePosixPath(file_name).with_suffix("").as_posix()
    roles = [("ignored", template) for template in layout.ignored]
    # The clean folder comes first: it may look like one of the degraded ones.
    roles += [("clean", layout.clean), *([("degraded", layout.degraded)] if layout.degraded else [])]
    for role, template in roles:
        found = _compile(template).fullmatch(stem)
        if found and not (role == "degraded" and layout.tasks and found["task"] not in layout.tasks):
            return role, found.groupdict()
    return "stray", {}


def _fits(layout: Layout, photographs: Iterable[Photograph]) -> bool:
    roles = {_find_role(layout, photograph.file_name)[0] for photograph in photographs}
    return "clean" in roles and ("degraded" in roles or layout.degraded is None)


def pair_by_name(folder: SplitFolder) -> tuple[list[Pair], list[Fault]]:
    """Make pairs of the names alone; nothing is opened.

    Args:
        folder: where the split lies (`locate_split`).

    Returns:
        The pairs, sorted by name, and the pictures that are left.
    """
    layout, task, places = folder.layout, folder.corpus.task, defaultdict(list)
    for photograph in folder.photographs:
        role, words = _find_role(layout, photograph.file_name)
        places[role].append((photograph, words))
    faults = [Fault(photograph.path, "it has no place in the layout") for photograph, _ in places["stray"]]
    if layout.degraded is None:
        found = enumerate(photograph for photograph, _ in places["clean"])
        return [Pair(None, clean.path, clean.file_name, task, index) for index, clean in found], faults
    partners, asked, pairs = defaultdict(list), set(), []
    for photograph, words in places["clean"]:
        partners[tuple(words.values())].append(photograph.path)
    for photograph, words in places["degraded"]:
        key = tuple(words[word] for word in _compile(layout.clean).groupindex)
        asked.add(key)
        if len(partners.get(key, ())) == 1:
            its_task = layout.tasks.get(words.get("task"), task)
            pairs.append(Pair(photograph.path, partners[key][0], photograph.file_name, its_task, len(pairs)))
        else:
            faults.append(Fault(photograph.path, _explain(layout, words, partners.get(key, []))))
    if not layout.has_spare_clean:
        lonely = sorted(path for key in partners.keys() - asked for path in partners[key])
        faults += [Fault(path, f"no degraded picture {layout.degraded} belongs to it") for path in lonely]
    return pairs, faults


def _explain(layout: Layout, words: dict[str, str], candidates: list[str]) -> str:
    if candidates:
        return f"several clean pictures belong to it: {', '.join(candidates)}"
    return f"its clean picture {layout.clean.format_map(words)} is missing"


def verify_pairs(folder: SplitFolder, *, decode: bool = True) -> PairingReport:
    """Pair the pictures of a split by their names, and verify that they can be read and are equal in size.

    Args:
        folder: where the split lies (`locate_split`).
        decode: decode every file to its end; else trust the headers, which takes a fraction of the time.
    """
    pairs, unpaired = pair_by_name(folder)
    needs = Counter(path for pair in pairs for path in (pair.degraded, pair.clean) if path)
    unreadable = [
        Fault(path, f"{reason}; {needs[path]} pairs need it" if needs[path] > 1 else reason)
        for path, reason in find_faults(sorted(needs), decode=decode)
    ]
    broken = {fault.path for fault in unreadable}
    readable = [pair for pair in pairs if broken.isdisjoint((pair.degraded, pair.clean))]
    sizes = {path: read_size(path) for pair in readable if pair.degraded for path in (pair.degraded, pair.clean)}
    settled = [_compare_sizes(pair, sizes, folder.layout.clean_border) for pair in readable]
    return PairingReport(
        corpus=folder.corpus.name,
        split=folder.split,
        root=folder.root,
        pairs=tuple(result for result in settled if isinstance(result, Pair)),
        unpaired=tuple(unpaired),
        unequal=tuple(result for result in settled if isinstance(result, Fault)),
        unreadable=tuple(unreadable),
        count_expected=folder.layout.count or folder.corpus.splits[folder.split].count,
        count_found=len(pairs),
    )


def read_size(path: str) -> tuple[int, int]:
    """Return a picture's width and height in pixels, from its header, as it is shown.

    Args:
        path: picture file.
    """
    with PIL.Image.open(path) as image:
        # `datasets` turns pictures by their EXIF tag; orientations above 4 swap width and height.
        turned = "exif" in image.info and image.getexif().get(PIL.ExifTags.Base.Orientation, 1) > 4
        return image.size[::-1] if turned else image.size


def _compare_sizes(pair: Pair, sizes: dict[str, tuple[int, int]], border: int) -> Pair | Fault:
    if pair.degraded is None or sizes[pair.degraded] == sizes[pair.clean]:
        return pair
    (width, height), (clean_width, clean_height) = sizes[pair.degraded], sizes[pair.clean]
    if (clean_width - width, clean_height - height) == (2 * border, 2 * border):
        return pair._replace(clean_border=border)
    size = f"{width} x {height} pixels, its clean picture {pair.clean} has {clean_width} x {clean_height}"
    return Fault(pair.degraded, size)
