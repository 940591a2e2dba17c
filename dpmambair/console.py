"""What commands say: one line for each thing, around progress bars, safe for a terminal."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from PIL import Image
from tqdm import tqdm

from dpmambair.memory import is_short


def printable(text: str) -> str:
    """Return a text, such as one with a file's name in it, with all that could move a terminal's cursor escaped.

    Args:
        text: any characters; bytes of file names that are not UTF-8 are escaped too.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _write(text: str, stream: TextIO) -> None:
    encoding = stream.encoding or "utf-8"
    tqdm.write(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=stream)


def say(text: str) -> None:
    """Print one line on stdout, above the progress bars."""
    _write(text, sys.stdout)


def complain(text: str) -> None:
    """Print one line on stderr."""
    _write(text, sys.stderr)


def note(text: str) -> None:
    """Print one line on stderr about something that is no failure."""
    complain(f"note: {text}")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow, which warns of large photographs, and of damage that it then either survives or raises."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def describe(error: BaseException, path: str | Path) -> str:
    """Return the reason for a failure of `path` in one line.

    Args:
        error: what was raised.
        path: what it is about, which the line need not name; "" for nothing that has a name.
    """
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        elsewhere = error.filename is not None and str(error.filename) != str(path)
        return f"{error.strerror}: {error.filename}" if elsewhere else error.strerror
    if is_short(error):
        return "not enough memory to restore this picture"
    # A file's name may have several lines; whatever else has, says the most in its first.
    name = os.fspath(path)
    return text if name and name in text else text.splitlines()[0]


@dataclass
class Problems:
    """Says each failure in one line on stderr, around the progress bar, and counts them."""

    count: int = 0

    def add(self, path: str | Path, error: BaseException) -> None:
        """Report that `path` failed because of `error`."""
        complain(f"{path}: {describe(error, path)}")
        self.count += 1
