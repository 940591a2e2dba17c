"""What the command is asked for, and whether it can be done; answers at once, without torch."""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dpmambair.manifest import is_unchanged, read_manifests
from dpmambair.settings import Settings
from dpmambair.shard import Shard

# GiB that restoring one picture may take.
MEMORY = 3.0


def check_model(folder: Path) -> None:
    """Refuse, before torch is imported, a folder that holds no model; a `ValueError` says so."""
    if not os.path.isfile(folder / "config.json"):
        raise ValueError(f"`--model` must be a folder with a model's config.json, got {folder}; give --model DIR")


@dataclass(frozen=True)
class Request:
    """What the command is asked for; its options of the same names say more.

    Attributes:
        inputs: files and folders.
        output: folder for the results.
        settings: what decides how the restored files look.
        report: whether to tell what had spoiled each picture.
        overwrite: whether existing files are replaced.
        skip_existing: whether existing files are left, and no failure.
        compare: whether side-by-side pictures are written.
        grid: file of the overview, if any.
        shard: which part of the work is this process's.
        batch_size: the most pictures of one size that are restored at once.
        model: folder of the model.
        dtype: in which it computes.
        device: where it computes.
        memory: GiB that restoring one picture may take.
    """

    inputs: list[Path]
    output: Path
    settings: Settings
    report: bool
    overwrite: bool
    skip_existing: bool
    compare: bool
    grid: Path | None
    shard: Shard
    batch_size: int
    model: Path
    dtype: str
    device: str
    memory: float

    def __post_init__(self) -> None:
        """Refuse what cannot be; a `ValueError` says what and why."""
        check_model(self.model)
        if not 0 <= self.memory < math.inf:
            rule = f"a number of GiB from 0 up, got {self.memory}"
            raise ValueError(f"`--memory` must be {rule}; {MEMORY} is the default")
        if self.batch_size < 1:
            raise ValueError(f"`--batch-size` must be at least 1, got {self.batch_size}; 1 is the default")
        if self.overwrite and self.skip_existing:
            raise ValueError("`--overwrite` must not stand beside --skip-existing, got both; choose one")
        if self.grid and self.shard.count > 1:
            raise ValueError(f"`--grid` must show all pictures, got shard {self.shard}; leave one of them out")

    def check_files(self) -> None:
        """Make sure, before the first picture is computed, that files can be written.

        Raises:
            OSError: a folder takes no files: it is read-only, or its disk is full.
            ValueError: the overview would replace another file, or is no picture.
        """
        _check_disk(self.output)
        if self.grid:
            self._check_grid(self.grid)
            _check_disk(self.grid.parent)

    def _check_grid(self, grid: Path) -> None:
        if Image.registered_extensions().get(grid.suffix.lower()) not in Image.SAVE:
            raise ValueError(f"`--grid` must have the suffix of a picture, got {grid}; call it overview.png")
        records = read_manifests(self.output).get(str(grid), ())
        is_ours = any(is_unchanged(record, grid) for record in records)
        if os.path.lexists(grid) and not is_ours and not self.overwrite:
            raise ValueError(f"`--grid` must be a new file, got {grid}, which exists; give --overwrite")


def _check_disk(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(4096))
        probe.flush()
        os.fsync(probe.fileno())
