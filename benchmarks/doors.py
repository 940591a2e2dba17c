"""Send odd pictures through every door: `python -m tests.odd_pictures DIR`, then `python -m benchmarks.doors DIR`.

Command line, pipeline and service restore each file, and what comes out is compared byte by byte; the processor, whose
door leads into the network only, gives values of the same size.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import ExifTags, Image
from starlette.testclient import TestClient
from tqdm import tqdm

from benchmarks.doors_table import doors_grid
from benchmarks.files import RESULTS, write_text
from benchmarks.rendering import format_columns
from dpmambair.serve import create_app
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import ImageRestorationPipeline, Restorer, read_picture, write_picture

# By their names: what comes out of a door, or why nothing does.
Outcomes = dict[str, bytes | str]


def by_command(files: list[Path], model: Path) -> Outcomes:
    """Restore files by the command line."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dpmambair.restore", *map(str, files), "-o", folder, "--model", str(model)]
        run = subprocess.run([*command, "--dtype", "float32"], capture_output=True, text=True, check=False)
        found: Outcomes = {}
        for file in files:
            written, start = Path(folder, file.name), f"{file}: "
            reasons = [line.removeprefix(start) for line in run.stderr.splitlines() if line.startswith(start)]
            found[file.name] = written.read_bytes() if written.exists() else reasons[0]
    return found


def by_pipeline(files: list[Path], restorer: Restorer) -> Outcomes:
    """Restore files by the pipeline."""
    pipeline = ImageRestorationPipeline(restorer.model, image_processor=restorer.processor)

    def restore(content: bytes) -> bytes:
        written = io.BytesIO()
        write_picture(pipeline(content, return_picture=True), written)
        return written.getvalue()

    return _each(files, restore)


def by_service(files: list[Path], restorer: Restorer) -> Outcomes:
    """Restore files by the service."""
    with TestClient(create_app(restorer)) as client:

        def restore(content: bytes) -> bytes:
            answer = client.post("/restore", content=content)
            if answer.status_code != 200:
                raise ValueError(answer.json()["detail"])
            return answer.content

        return _each(files, restore)


def by_processor(files: list[Path], restorer: Restorer) -> dict[str, list[int] | str]:
    """Return height and width of the values that the processor makes of files."""
    return _each(
        files, lambda content: list(restorer.processor(content, return_tensors="pt")["pixel_values"].shape[2:])
    )


def _each(files: list[Path], restore: Callable[[bytes], Any]) -> dict[str, Any]:
    found = {}
    for file in tqdm(files, unit="picture", disable=None):
        try:
            found[file.name] = restore(file.read_bytes())
        except Exception as error:  # whatever it is, it is what comes out of this door
            found[file.name] = " ".join(str(error).split())
    return found


def describe(content: bytes) -> dict[str, Any]:
    """Tell what a file holds: format, mode, bits of a channel, size, frames, and what it says beside."""
    picture = read_picture(content)
    said, exif = picture.metadata, Image.Exif()
    exif.load(said.exif or b"")
    metadata = {
        "EXIF": said.exif, "place": said.exif and exif.get_ifd(ExifTags.IFD.GPSInfo), "ICC": said.icc_profile,
        "XMP": said.xmp, "resolution": said.dpi, "text": said.text,
    }  # fmt: skip
    return {
        "format": picture.format,
        "mode": ("L" if picture.is_grey else "RGB") + ("" if picture.alpha is None else "A"),
        "bits": picture.bit_depth,
        "size": picture.size,
        "frames": len(picture.frames),
        "metadata": [name for name, value in metadata.items() if value],
        "upright": exif.get(ExifTags.Base.Orientation, 1) == 1,
    }


def measure(files: list[Path], model: Path) -> list[dict[str, Any]]:
    """Send files through all doors.

    Args:
        files: pictures, odd ones, and what is none.
        model: folder of a trained model.

    Returns:
        Of each file `name`; `given` and `restored`, as `describe` tells them, or `refused`, the reason; `same`:
        whether the three doors gave the same bytes, or all refused; `values`: height and width at the processor, or
        its reason.
    """
    restorer = Restorer.from_pretrained(model, "cpu", "float32")
    doors = by_command(files, model), by_pipeline(files, restorer), by_service(files, restorer)
    values = by_processor(files, restorer)
    records = []
    for file in files:
        outcomes = [door[file.name] for door in doors]
        refusals = [isinstance(each, str) for each in outcomes]
        record = {"name": file.stem.replace("_", " "), "values": values[file.name]}
        if all(refusals):
            records.append({**record, "same": isinstance(values[file.name], str), "refused": outcomes[1]})
        else:
            hashes = {each if isinstance(each, str) else hashlib.sha256(each).hexdigest() for each in outcomes}
            restored = next(each for each in outcomes if isinstance(each, bytes))
            described = {"given": describe(file.read_bytes()), "restored": describe(restored)}
            records.append({**record, "same": len(hashes) == 1, **described})
    return records


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of odd pictures.")],
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained model.")] = SHIPPED,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "doors.json",
) -> None:
    """Print what becomes of every picture in a folder, and write it."""
    records = measure(sorted(path for path in folder.iterdir() if path.is_file()), model)
    results = {"model": model.resolve().name, "records": records}
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(doors_grid(results)))


if __name__ == "__main__":
    app()
