"""Restore large pictures from file to file: `python -m benchmarks.large`.

As in `benchmarks.command` a process of its own restores each picture. Beside it runs NAFNet-32, of spandrel, with
random weights, in tiles as programs that use spandrel cut them: the whole picture would take more memory than most
machines have.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from tqdm import tqdm

from benchmarks.command import EXAMPLE, command_of, run
from benchmarks.files import RESULTS, write_text
from benchmarks.large_peer import NAME
from benchmarks.large_peer import command_of as peer_of
from benchmarks.large_table import large_grid
from benchmarks.rendering import format_columns
from dpmambair.machine import describe_machine
from dpmambair.shipped import SHIPPED

# GiB for tiles, so that with the pictures, 0.75 GiB each of 67 megapixels, the process stays within 3.
MEMORY = 0.75
# Width and height, pixels: of 12 and 24 megapixels, and a square of 67.
SIZES = ((4000, 3000), (6000, 4000), (8192, 8192))


def measure(size: tuple[int, int], model: Path, has_peer: bool) -> list[dict[str, Any]]:
    """Restore a picture of this width and height once, after a small one that compiles the kernels.

    Args:
        size: width and height, pixels.
        model: folder of a trained model.
        has_peer: whether the other network restores it too.

    Returns:
        A record for each network: `network`, `width`, `height`, `seconds`, `memory` in bytes.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        picture, output = Path(folder, "picture.png"), Path(folder, "restored")
        with Image.open(EXAMPLE) as example:
            example.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(picture, compress_level=1)
        run(command_of(EXAMPLE, model, Path(folder, "first")))
        commands = {model.resolve().name: (*command_of(picture, model, output), "--memory", str(MEMORY))}
        if has_peer:
            commands[NAME] = peer_of(picture, Path(folder, "peer.png"))
        for name, command in commands.items():
            seconds, memory = run(command)
            records.append(
                {"network": name, "width": size[0], "height": size[1], "seconds": seconds, "memory": memory}
            )
    return records


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained model.")] = SHIPPED,
    peer_megapixels: Annotated[int, typer.Option(min=0, help="The other network takes no larger ones.")] = 12,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "large.json",
) -> None:
    """Print seconds and memory of restoring large pictures, and write them."""
    records = []
    for size in tqdm(SIZES, unit="size", disable=None):
        records += measure(size, model, size[0] * size[1] <= peer_megapixels * 10**6)
    results = {"machine": describe_machine(), "memory": MEMORY, "records": records}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(large_grid(results)))


if __name__ == "__main__":
    app()
