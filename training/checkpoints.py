"""Checkpoints that are whole or absent: written aside, renamed when complete, verified before they are believed."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dpmambair.files import hash_files

PREFIX = "checkpoint-"
UNFINISHED = ".tmp"
MANIFEST = "manifest.json"
# What torch says of a data worker that was killed.
DEAD_WORKER = "DataLoader worker"


def begin_checkpoint(output: Path, step: int) -> Path:
    """Make the empty folder into which a checkpoint is written.

    Args:
        output: the run's folder.
        step: steps done.
    """
    for left in output.glob(f"{PREFIX}*{UNFINISHED}"):  # by a process that was killed, perhaps at another step
        shutil.rmtree(left, ignore_errors=True)
    folder = unfinished_checkpoint(output, step)
    folder.mkdir(parents=True)
    return folder


def unfinished_checkpoint(output: Path, step: int) -> Path:
    """Return where a checkpoint is written before it gets its name.

    Args:
        output: the run's folder.
        step: steps done.
    """
    return output / f"{PREFIX}{step}{UNFINISHED}"


def finish_checkpoint(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Seal a written checkpoint, give it its name, and delete those that are too many.

    Args:
        folder: from `begin_checkpoint`, filled.
        state: what else to remember, ready for JSON.
        keep: how many of the newest checkpoints stay. Those of later steps do not: they were damaged, or the run would
            have gone on from there.

    Returns:
        The finished checkpoint.
    """
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    digests = {str(path.relative_to(folder)): hash_files([path]) for path in files}
    (folder / MANIFEST).write_text(json.dumps({"state": state, "sha256": digests}, indent=2))
    final = folder.with_name(folder.name.removesuffix(UNFINISHED))
    shutil.rmtree(final, ignore_errors=True)  # one that was refused as damaged
    os.replace(folder, final)
    listed = list_checkpoints(final.parent)
    place = listed.index(final)
    for old in listed[:place] + listed[place + keep :]:
        shutil.rmtree(old)
    return final


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Free the space of a checkpoint that could not be written, and say so.

    Args:
        folder: from `begin_checkpoint`.

    Raises:
        OSError: the disk is full or fails, or a process of the run died meanwhile.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors do not raise OSError
        shutil.rmtree(folder, ignore_errors=True)
        rule, remedy = "have room for a checkpoint", "free space"
        if DEAD_WORKER in str(error):  # raised wherever the run is when the worker dies
            rule, remedy = "get a checkpoint while all data workers live", "find out who ended one"
        before = [each.name for each in list_checkpoints(folder.parent)[:1]]
        state = f"{before[0]} is intact" if before else "there is none before it"
        raise OSError(
            f"`output` must {rule}, got {(str(error) or type(error).__name__).splitlines()[0]!r} while writing "
            f"{folder.name.removesuffix(UNFINISHED)}; {state}: {remedy}, then --resume"
        ) from error


def publish(unfinished: Path, folder: Path) -> None:
    """Move the files of a written folder into another, each replacing its namesake at once.

    Args:
        unfinished: what to move; removed.
        folder: where to; made if it does not exist.
    """
    for path in sorted(unfinished.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(unfinished)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    shutil.rmtree(unfinished)


def list_checkpoints(output: Path) -> list[Path]:
    """List a run's finished checkpoints, newest first; whether they are intact is not looked at."""
    found = [path for path in output.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)


def has_run(output: Path) -> bool:
    """Tell whether a folder already holds a run's log or checkpoints."""
    return (output / "log.jsonl").exists() or bool(list_checkpoints(output))


def find_checkpoint(output: Path) -> tuple[Path, dict[str, Any]]:
    """Find the newest intact checkpoint; damaged ones are passed over with a warning.

    Args:
        output: the run's folder.

    Returns:
        Its folder, and the state that `finish_checkpoint` was given.

    Raises:
        FileNotFoundError: there is no intact checkpoint.
    """
    for folder in list_checkpoints(output):
        try:
            return folder, _read_state(folder)
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(f"{folder.name} is damaged ({error}); falling back to the one before", stacklevel=2)
    raise FileNotFoundError(
        f"`output` must hold an intact checkpoint for --resume, got {str(output)!r}; "
        "name a new folder, without --resume"
    )


def _read_state(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, expected in manifest["sha256"].items():
        if hash_files([folder / name]) != expected:
            raise ValueError(f"{name} differs from its checksum")
    return manifest["state"]
