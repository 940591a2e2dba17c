"""Build the static page, which restores pictures in the visitor's browser: `python -m demo.build_static DIR`.

The folder then holds all that the page needs: its own files (`demo/static`), the network as ONNX models with the
authors of the photographs that it was trained on, onnxruntime-web from npm, and the example pictures. Any server of
files can offer it. Building needs `npm` and to be online once; what npm gave is kept in `build/npm`.
"""

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from dpmambair.shipped import ATTRIBUTION, SHIPPED

ROOT = Path(__file__).resolve().parents[1]
PAGE, EXAMPLES, KEPT = ROOT / "demo" / "static", ROOT / "examples", ROOT / "build" / "npm"
RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
# Of the archive, so that it is the one that was tested.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# For WebAssembly alone, and with WebGPU. Hosts differ in what they compress, so the binaries are stored compressed.
SCRIPTS = ("ort.wasm.min.mjs", "ort.webgpu.min.mjs")
BUILDS = ("ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify")

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def fetch_runtime() -> Path:
    """Return the archive of onnxruntime-web, which npm fetches when it is not kept yet.

    Raises:
        ValueError: npm is missing or gave no archive, or another one.
    """
    archive = KEPT / f"{RUNTIME}-{VERSION}.tgz"
    if not archive.is_file():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as place:
            command = ["npm", "pack", "--silent", f"{RUNTIME}@{VERSION}"]
            try:
                subprocess.run(command, cwd=place, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise ValueError(f"npm must give {command[-1]}, got {error}; install npm and go online") from error
            check_integrity(Path(place) / archive.name)
            (Path(place) / archive.name).replace(archive)
    check_integrity(archive)
    return archive


def check_integrity(archive: Path) -> None:
    """Make sure that an archive is the one that was tested.

    Raises:
        ValueError: it is another.
    """
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != INTEGRITY:
        raise ValueError(f"`{archive.name}` must be of {INTEGRITY}, got {found}; delete it and build again")


def unpack_runtime(archive: Path, folder: Path) -> None:
    """Take what the page needs out of the archive of onnxruntime-web."""
    folder.mkdir()
    with tarfile.open(archive) as package:
        for name in (*SCRIPTS, *(f"{build}.mjs" for build in BUILDS), *(f"{build}.wasm" for build in BUILDS)):
            content = package.extractfile(f"package/dist/{name}").read()
            if name.endswith(".wasm"):
                name, content = f"{name}.gz", gzip.compress(content, mtime=0)
            (folder / name).write_bytes(content)


def export_network(model: Path, folder: Path) -> None:
    """Export a model in parts, as a user does.

    Raises:
        ValueError: the command refused; its last words.
    """
    command = [sys.executable, str(ROOT / "export_model.py"), str(model), "--parts", "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("error: ")[2])


def build(folder: Path, model: Path) -> None:
    """Build the page in a new folder.

    Args:
        folder: to make.
        model: folder of a trained model.

    Raises:
        ValueError: the folder exists, the model cannot be exported, or npm gives no runtime.
    """
    if folder.exists():
        raise ValueError(f"`DIR` must be a new folder, got {folder}; remove it or name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as place:
        page = Path(place) / "page"
        shutil.copytree(PAGE, page)
        copy_examples(page / "examples")
        add_programs(page, model)
        # Who offers the weights names the authors of what they were trained on.
        for path in model.glob(ATTRIBUTION):
            shutil.copyfile(path, page / "network" / path.name)
        page.rename(folder)


def copy_examples(folder: Path) -> None:
    """Copy the example pictures into a new folder, with their names and sources."""
    folder.mkdir()
    pictures = sorted(EXAMPLES.glob("*.png"))
    for path in (*pictures, EXAMPLES / "README.md"):
        shutil.copyfile(path, folder / path.name)
    (folder / "names.json").write_text(json.dumps([path.name for path in pictures]), encoding="utf-8")


def add_programs(page: Path, model: Path) -> None:
    """Add the runtime and the network to a page, with a bar on terminals: this takes minutes.

    Raises:
        ValueError: the model cannot be exported, or npm gives no runtime.
    """
    with tqdm(total=3, unit="step", disable=None) as bar:
        bar.set_description("Fetching onnxruntime-web")
        archive = fetch_runtime()
        bar.update()
        bar.set_description("Unpacking it")
        unpack_runtime(archive, page / "runtime")
        bar.update()
        bar.set_description("Exporting the network, which takes minutes")
        export_network(model, page / "network")
        bar.update()


@main.command()
def build_static(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the page.")],
    model: Annotated[Path, typer.Option(metavar="DIR", help="Folder of a trained model.")] = SHIPPED,
) -> None:
    """Build the page that restores pictures in the browser; any server of files can offer the folder."""
    try:
        build(folder, model)
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    typer.echo(f"{folder}: {size / 2**20:.1f} MiB; try it with: python -m http.server --directory {folder}")


if __name__ == "__main__":
    main()
