"""Files and folders that are whole or absent."""

import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Bytes of the longest file name that the usual file systems take.
LONGEST_NAME = 255
# Seconds after which another machine's temporary file is nobody's: a picture is written in a few.
ABANDONED = 24 * 3600

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.(?P<host>[0-9a-f]{8})\.(?P<process>\d{1,7})\.part(\..*)?", re.DOTALL)


def hash_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the contents of files, one after the other.

    Args:
        paths: the files, in the order that counts.
    """
    checksum = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: checksum)
    return checksum.hexdigest()


def _digest(text: str, length: int) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=length // 2).hexdigest()


def _host() -> str:
    return _digest(socket.gethostname(), 8)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `target` if the block succeeds, and vanishes otherwise.

    Args:
        target: the final path; its folder is made.

    Yields:
        A hidden path in the same folder, with the same suffix. It tells by its name whose it is, for
        `clear_leftovers`, and is no longer than any file system takes, whatever the length of the target's name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = target.suffix if len(os.fsencode(target.suffix)) < 32 else ""
    temporary = target.with_name(f".{_digest(target.name, 16)}.{_host()}.{os.getpid()}.part{suffix}")
    try:
        yield temporary
        # Renamed before its content is on the disk, it would be empty after a power failure.
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def clear_leftovers(folders: Iterable[Path]) -> None:
    """Remove temporary files that killed processes left behind.

    Args:
        folders: where to look; their subfolders are not searched. This process must not be writing there.
    """
    for path in [path for folder in folders for path in _scan(folder) if _is_abandoned(path)]:
        path.unlink(missing_ok=True)


def _scan(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    return []


def _is_abandoned(path: Path) -> bool:
    owner = _TEMPORARY.fullmatch(path.name)
    try:
        if time.time() - path.lstat().st_mtime > ABANDONED:
            return True
        # In a container a new process often has the number of the one before.
        if owner["host"] == _host() and int(owner["process"]) != os.getpid():
            os.kill(int(owner["process"]), 0)
        return owner["host"] == _host() and int(owner["process"]) == os.getpid()
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's process, or a file that has vanished
        return False


def shorten_name(stem: str, ending: str) -> str:
    """Return the file name of both, the stem cut so that it is no longer than file systems take.

    Args:
        stem: first part.
        ending: last part, which stays whole.
    """
    while len(os.fsencode(stem + ending)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + ending


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `target`, which must not exist, if the block succeeds, and else vanishes.

    Args:
        target: the final path.

    Yields:
        A path beside it, at which there is nothing.
    """
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
