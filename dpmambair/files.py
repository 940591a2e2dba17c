"""Files and folders that are whole or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `target` if the block succeeds, and vanishes otherwise.

    Args:
        target: the final path; its folder is made.

    Yields:
        A hidden path in the same folder, with the same suffix.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `target`, which must not exist, if the block succeeds.

    Args:
        target: the final path.

    Yields:
        A path beside it, at which there is nothing.
    """
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    yield temporary
    temporary.rename(target)
