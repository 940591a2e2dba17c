"""Where results files live, and how files are written."""

from pathlib import Path

from dpmambair.files import replacing

RESULTS = Path(__file__).resolve().parent / "results"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: under a temporary name beside it, then renamed.

    Args:
        path: file to write, UTF-8; its folder is made.
        text: all of its content.
    """
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
