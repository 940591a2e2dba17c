"""The manifest of an output folder: a line of JSON for each file, which proves what is done and how it was made.

| key | meaning |
|---|---|
| `input` | the degraded file, as it was given |
| `input_bytes`, `input_mtime_ns` | its length and time of change, by which it is known again |
| `output` | the restored file's path below the folder |
| `bytes`, `mtime_ns`, `sha256` | of the restored file |
| `size` | width and height, pixels |
| `seconds` | that the model took |
| `detected` | presence and severity of each kind of degradation, if a report was asked for |
| `settings` | a hash; a line of its own tells of what |
| `error` | why there is no restored file |

Every process appends to a file of its own. A line is on the disk before the file that it tells of takes its name, so
that after a kill at any moment each restored file is proven, or absent.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from dpmambair.files import hash_files
from dpmambair.shard import Shard

Record = dict[str, Any]


class Manifest:
    """Appends to one file of an output folder; from several threads, if need be.

    Args:
        folder: of the restored files.
        shard: whose file it is.
        fingerprint: of the settings and the model, as `Settings.fingerprint` returns it.
    """

    def __init__(self, folder: Path, shard: Shard, fingerprint: Mapping[str, object]) -> None:
        part = f"-{shard.index}-of-{shard.count}" if shard.count > 1 else ""
        self.path = folder / f"manifest{part}.jsonl"
        self.fingerprint = fingerprint
        self._file: BinaryIO | None = None
        self._lock = Lock()

    def add(self, source: Path, output: str, **values: object) -> None:
        """Append a record, durably.

        Args:
            source: the degraded file.
            output: path of the restored one below the folder.
            **values: what else the record tells.

        Raises:
            OSError: the record is not on the disk.
        """
        record = {"input": str(source), **identify(source), "output": output, "settings": self.fingerprint["settings"]}
        with self._lock:
            if self._file is None:
                self._file = self._open()
                self._append(self.fingerprint)
            self._append({**record, "error": None, **values})

    def _append(self, record: Mapping[str, object]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _open(self) -> BinaryIO:
        file = self.path.open("ab+")
        # A killed process, or a full disk, may have left half a line.
        if file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
            file.write(b"\n")
        return file

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None


def read_manifests(folder: Path) -> dict[str, list[Record]]:
    """Return all records of each output, whichever process wrote them.

    Args:
        folder: of the restored files; need not exist.
    """
    records: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("manifest*.jsonl")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for record in map(_parse, lines):
                records.setdefault(record.get("output", ""), []).append(record)
    return records


def _parse(line: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError:  # half a line
        return {}
    return record if isinstance(record, dict) else {}


def identify(source: Path) -> dict[str, int | None]:
    """Return by what an input is known again; nothing where it is not there."""
    try:
        status = os.stat(source)
    except OSError:
        return {"input_bytes": None, "input_mtime_ns": None}
    return {"input_bytes": status.st_size, "input_mtime_ns": status.st_mtime_ns}


def proves(record: Record, source: Path, target: Path, settings: str) -> bool:
    """Tell whether a record proves that a file was made of an input, with some settings, and is as it was made.

    Args:
        record: one of this output.
        source: the input.
        target: the output.
        settings: their hash.
    """
    known = {"input": str(source), **identify(source), "settings": settings, "error": None}
    return all(record.get(key, "") == value for key, value in known.items()) and is_unchanged(record, target)


def is_unchanged(record: Record, path: Path) -> bool:
    """Tell whether a file is as a record describes it."""
    try:
        status = path.stat()
        if status.st_size != record["bytes"]:
            return False
        # A copied folder may have lost the times.
        return status.st_mtime_ns == record["mtime_ns"] or hash_files([path]) == record["sha256"]
    except (OSError, KeyError):
        return False


def describe_file(path: Path) -> dict[str, object]:
    """Return by what a written file is known again: its length, time of change and SHA-256."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": hash_files([path])}
