"""Where results files live, how files are written, and how weights are told apart."""

import hashlib
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


def hash_weights(model: Path) -> str:
    """Return the SHA-256 of a model's weights, by which results files name them.

    Args:
        model: folder of the model.
    """
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(model.glob("*.safetensors")))).hexdigest()
