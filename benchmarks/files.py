"""Where results files live, and how files are written."""

import os
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: under a temporary name beside it, then renamed.

    Args:
        path: file to write, UTF-8; its folder is made.
        text: all of its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
