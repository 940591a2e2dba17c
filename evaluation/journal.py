"""What a run has measured so far, so that it can be interrupted at any picture and go on."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpmambair.files import clear_leftovers, replacing

SETTINGS = "settings.json"
# Set and place in it.
Key = tuple[str, int]


class Journal:
    """A folder of JSON lines, one for each finished picture; it exists from a run's beginning to its end.

    Every process writes a file of its own, and a new one each time it starts: a line that a kill has torn is the last
    of its file, and is left out. All processes must see the same folder.

    Args:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Begin a run, or make sure that the one that was interrupted measured the same.

        Args:
            settings: all that the measurements depend on, as JSON.
            facts: of this start, such as the date, as JSON; those of the first start stay.

        Raises:
            ValueError: the interrupted run had other settings.
        """
        clear_leftovers([self.folder])  # of a process that was killed; they would outlast the run
        wanted = json.loads(json.dumps(settings))
        if not (self.folder / SETTINGS).exists():
            with replacing(self.folder / SETTINGS) as partial:
                partial.write_text(json.dumps({"settings": wanted, "facts": facts}, indent=2) + "\n", encoding="utf-8")
            return
        stored = self._read_settings()["settings"]
        if changed := sorted(name for name in wanted | stored if wanted.get(name) != stored.get(name)):
            raise ValueError(
                f"settings must be those of the run that was interrupted, got others for {', '.join(changed)}; "
                f"give the same ones, or delete {self.folder} to begin anew"
            )

    def read_facts(self) -> dict[str, Any]:
        """Return the facts of the run's first start."""
        return self._read_settings()["facts"]

    def _read_settings(self) -> dict[str, Any]:
        return json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))

    def read(self) -> dict[Key, dict[str, Any]]:
        """Return what is measured so far, the record of each picture by its set and its place."""
        records = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # torn by a kill
                    continue
                records[record["set"], record["index"]] = record
        return records

    def open(self, process: int) -> "Writer":
        """Return what writes the records of one process from now on.

        Args:
            process: its number.
        """
        return Writer(self.folder / f"{process}-{len(list(self.folder.glob(f'{process}-*.jsonl')))}.jsonl")

    def end(self) -> None:
        """Remove the folder: what it holds stands in the results."""
        for path in (*self.folder.glob("*.jsonl"), self.folder / SETTINGS):
            path.unlink()
        self.folder.rmdir()


class Writer:
    """Appends records to a new file, each whole before the next is measured.

    Args:
        path: a file that does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record to the disk.

        Args:
            record: has `set`, the name of the set, and `index`, the picture's place in it.
        """
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
