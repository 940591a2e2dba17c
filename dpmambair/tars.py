"""Tar archives, such as WebDataset's shards: the pictures in them are restored, all else is copied as it is.

A sample of WebDataset is the files of one name up to the first dot, and `key.jpg` its picture. What has a longer
suffix, such as the mask `key.mask.png`, is not what a camera took, and is copied.
"""

import io
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from dpmambair.jobs import name_apart, name_output
from dpmambair.overlap import Steps, overlap
from dpmambair.pictures import Detected, Restored, encode, size_of
from dpmambair.search import format_of
from dpmambair.settings import Settings
from modeling_dpmambair import Picture, read_picture


@dataclass(frozen=True)
class Entry:
    """A picture of an archive.

    Attributes:
        index: place in the archive.
        member: what the archive says of it.
        name: in the restored archive.
        content: its file.
    """

    index: int
    member: tarfile.TarInfo
    name: str
    content: bytes


@dataclass
class Contents:
    """What became of the files of an archive.

    Attributes:
        restored: how many pictures were restored.
        copied: how many other files were copied.
        seconds: that the model took.
        detected: what had spoiled each picture, by its name, if that was asked for.
        failed: why pictures were left out, by their names.
    """

    restored: int = 0
    copied: int = 0
    seconds: float = 0.0
    detected: dict[str, Detected] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)


def restore_tar(
    source: Path,
    target: Path,
    restore: Callable[[Sequence[Picture]], Sequence[Restored]],
    settings: Settings,
    together: int = 1,
) -> Contents:
    """Restore the pictures of an archive into another, in which everything has its place, name and sample as before.

    Args:
        source: archive.
        target: archive to write.
        restore: restores pictures of one size.
        settings: what decides how the pictures' files look.
        together: the most pictures that `restore` takes at once.

    Returns:
        What became of the files; a picture that fails is left out.

    Raises:
        OSError: an archive cannot be read or written.
        tarfile.TarError: no tar archive.
        ValueError: no regular file, or an archive without pictures.
    """
    if source.exists() and not source.is_file():  # a pipe would wait for its writer for ever
        raise ValueError(f"`INPUT` must be a regular file or a folder, got {source}; copy its content into one")
    contents, position = Contents(), 0
    with tarfile.open(source) as given, tarfile.open(target, "w") as made:
        members = given.getmembers()
        steps = _steps(restore, settings, together)
        with closing(overlap(_read_entries(given, members, settings), steps)) as outcomes:
            for entry, future in outcomes:
                contents.copied += _copy(given, made, members[position : entry.index])
                position = entry.index + 1
                _settle(made, entry, future.exception() or future.result(), contents)
        contents.copied += _copy(given, made, members[position:])
    if not position:
        raise ValueError("no pictures in this archive")
    return contents


def _steps(
    restore: Callable[[Sequence[Picture]], Sequence[Restored]], settings: Settings, together: int
) -> Steps[Entry, Picture, Restored, tuple[bytes, Restored]]:
    return Steps(
        read=lambda entry: read_picture(entry.content),
        size=size_of,
        work=lambda _, pictures: restore(pictures),
        write=lambda entry, restored: (encode(restored.picture, format_of(entry.name), settings), restored),
        together=together,
    )


def _read_entries(given: tarfile.TarFile, members: Sequence[tarfile.TarInfo], settings: Settings) -> Iterator[Entry]:
    """Yield the pictures, read in the caller's thread, since an archive is one file with one position."""
    files = {member.name for member in members if member.isreg()}
    # What a hard link names may get another name here, or be left out: its picture is restored once more.
    chosen = [
        index
        for index, member in enumerate(members)
        if (member.isreg() or member.islnk() and member.linkname in files) and _is_photograph(member.name)
    ]
    names = [members[index].name for index in chosen]
    wanted = [name_output(name, Path(name), settings) for name in names]
    taken = {member.name for member in members} - set(names)
    for index, name in zip(chosen, name_apart(wanted, names, taken), strict=True):
        yield Entry(index, members[index], name, given.extractfile(members[index]).read())


def _is_photograph(name: str) -> bool:
    key, _, suffix = posixpath.basename(name).partition(".")
    return bool(key) and "." not in suffix and format_of(name) is not None


def _copy(given: tarfile.TarFile, made: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> int:
    for member in members:
        made.addfile(member, given.extractfile(member) if member.isreg() else None)
    return len(members)


def _settle(
    made: tarfile.TarFile, entry: Entry, outcome: BaseException | tuple[bytes, Restored], contents: Contents
) -> None:
    if isinstance(outcome, Exception):
        contents.failed[entry.member.name] = outcome
        return
    content, restored = outcome
    # Not the member itself: it may carry a header of its own with the former name and length.
    member = tarfile.TarInfo(entry.name)
    for name in ("mtime", "mode", "uid", "gid", "uname", "gname"):
        setattr(member, name, getattr(entry.member, name))
    member.size = len(content)
    made.addfile(member, io.BytesIO(content))
    contents.restored += 1
    contents.seconds += restored.seconds
    if restored.detected:
        contents.detected[entry.member.name] = restored.detected
