"""What the command restores: pictures are searched in folders, and nothing is left out in silence."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from dpmambair.console import Problems, note
from modeling_dpmambair.picture_files_dpmambair import FORMATS, SYNONYMS, list_suffixes


@dataclass
class Search:
    """Finds what to restore.

    Attributes:
        output: folder below which results are written; never searched.
        problems: collects what cannot be used.
        found: files, each with its place below the output folder.
        left_out: how many files were not taken for pictures, by suffix.
    """

    output: Path
    problems: Problems
    found: list[tuple[Path, Path]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._avoided = os.path.realpath(self.output)
        self._seen: set[tuple[str, Path]] = set()

    def add(self, given: Path) -> None:
        """Take a file as it is, even one that does not exist; or all pictures in a folder, in depth and sorted.

        A folder that cannot be read, and one without pictures, goes to `problems`.
        """
        # Not Path.is_dir: it raises where a parent folder cannot be read.
        if not os.path.isdir(given):
            self._take(given, Path(given.name))
            return
        before = (len(self.found), self.problems.count)
        for source in self._walk(given):
            self._take(source, source.relative_to(given))
        if before == (len(self.found), self.problems.count):
            self.problems.add(given, ValueError("no pictures in this folder"))

    def _take(self, source: Path, place: Path) -> None:
        known = (os.path.abspath(source), place)
        if known in self._seen:
            note(f"{source} is given twice, and restored once")
        else:
            self._seen.add(known)
            self.found.append((source, place))

    def _walk(self, top: Path) -> Iterator[Path]:
        """Yield the pictures below a folder by their file names, sorted, without hidden ones and the output."""
        for parent, folders, names in os.walk(top, onerror=self._refuse, followlinks=True):
            here = Path(parent)
            folders[:] = [name for name in sorted(folders) if self._is_searched(here / name, top)]
            yield from (here / name for name in sorted(names) if self._is_picture(here / name))

    def _refuse(self, error: OSError) -> None:
        self.problems.add(error.filename, error)

    def _is_searched(self, folder: Path, top: Path) -> bool:
        if folder.name.startswith("."):
            self.left_out["hidden folder"] += 1
            return False
        real = os.path.realpath(folder)
        if real == self._avoided:
            return False
        if circle := next((above for above in _between(folder, top) if os.path.realpath(above) == real), None):
            note(f"{folder} leads back to {circle}, and is not searched again")
        return circle is None

    def _is_picture(self, path: Path) -> bool:
        suffix = suffix_of(path)
        if path.name.startswith("."):
            suffix = "hidden"
        elif format_of(path) or (not suffix and sniff(path)):
            return True
        self.left_out[suffix or "no suffix"] += 1
        return False

    def tell_left_out(self) -> None:
        """Say what was in the folders and is not restored."""
        if self.left_out:
            kinds = ", ".join(f"{kind} ({number})" for kind, number in sorted(self.left_out.items()))
            note(f"left out of the folders, as no pictures: {kinds}")


def _between(folder: Path, top: Path) -> Iterator[Path]:
    """Yield the folders above one, up to `top`."""
    while folder != top:
        folder = folder.parent
        yield folder


def suffix_of(name: str | Path) -> str:
    """Return a file's suffix, in lower case and with its dot; dots at a name's ends make none."""
    suffix = os.path.splitext(name)[1].lower()
    return "" if suffix == "." else suffix


@cache
def _suffixes() -> dict[str, str]:
    return list_suffixes()


def format_of(name: str | Path) -> str | None:
    """Return Pillow's name of the format that a file's suffix tells, if it tells one that is read."""
    return _suffixes().get(suffix_of(name))


def sniff(path: Path) -> str | None:
    """Return Pillow's name of the format of a file's content, if it is a picture that is read."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return None
        with Image.open(path, formats=FORMATS) as image:
            return SYNONYMS.get(image.format, image.format)
    except Exception:  # damaged files raise half a dozen unrelated types; reading them will say what is wrong
        return None
