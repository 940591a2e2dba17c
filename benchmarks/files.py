"""Where results files live, how files are written, and how weights are told apart."""

from pathlib import Path

from dpmambair.files import hash_files, replacing

RESULTS = Path(__file__).resolve().parent / "results"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: under a temporary name beside it, then renamed.

    Args:
        path: file to write, UTF-8; its folder is made.
        text: all of its content.
    """
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def name_weights(model: Path) -> dict[str, str]:
    """Return what a results file says of the weights that it measured: `name` and `weights_sha256`.

    Args:
        model: folder of the model.
    """
    return {"name": model.resolve().name, "weights_sha256": hash_files(sorted(model.glob("*.safetensors")))}
