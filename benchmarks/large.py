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

# Width and height, pixels, of 12 and 24 megapixels, and a square of 67; and the command's options for it. Of the last
# each copy takes 0.75 GiB; tiles get as much.
SIZES: dict[tuple[int, int], tuple[str, ...]] = {
    (4000, 3000): (),
    (6000, 4000): (),
    (8192, 8192): ("--memory", "0.75"),
}


def measure(size: tuple[int, int], options: tuple[str, ...], model: Path, has_peer: bool) -> list[dict[str, Any]]:
    """Restore a picture of this width and height once, after a small one that compiles the kernels.

    Args:
        size: width and height, pixels.
        options: of the command.
        model: folder of a trained model.
        has_peer: whether the other network restores it too.

    Returns:
        A record for each network: `network`, `options`, `width`, `height`, `seconds`, `memory` in bytes.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        picture, output = Path(folder, "picture.png"), Path(folder, "restored")
        with Image.open(EXAMPLE) as example:
            example.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(picture, compress_level=1)
        run(command_of(EXAMPLE, model, Path(folder, "first")))
        commands = {model.resolve().name: (*command_of(picture, model, output), *options)}
        if has_peer:
            commands[NAME] = peer_of(picture, Path(folder, "peer.png"))
        for name, command in commands.items():
            seconds, memory = run(command)
            own = " ".join(options) if name != NAME else ""
            one = {"network": name, "options": own, "width": size[0], "height": size[1]}
            records.append(one | {"seconds": seconds, "memory": memory})
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
    for size, options in tqdm(SIZES.items(), unit="size", disable=None):
        records += measure(size, options, model, size[0] * size[1] <= peer_megapixels * 10**6)
    results = {"machine": describe_machine(), "records": records}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(large_grid(results)))


if __name__ == "__main__":
    app()
