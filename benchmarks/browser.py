"""The static page in a browser: `python -m benchmarks.browser`. What it transfers, its speed, and that it agrees.

The page is built as a user builds it, and headless Chromium (`benchmarks/chromium.py`) chooses pictures on it, on the
screens of a phone and of a desktop. The page's own clock runs from the choice of a file until the page says that it is
restored. The first picture is chosen as soon as the page is open, so that its first run waits for the network too.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageOps
from skimage import data
from tqdm import tqdm

from benchmarks.browser_table import browser_grid
from benchmarks.chromium import SCREENS, StaticPage, headers_for, open_chromium, read_requests, serving
from benchmarks.files import RESULTS, write_text
from benchmarks.rendering import format_columns
from dataset_scripts.degradations import apply_degradations, sample_degradation
from dataset_scripts.transforms import to_float
from dpmambair.machine import describe_command, describe_machine, read_commit
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import Restorer

ROOT = Path(__file__).resolve().parents[1]
# Width and height, pixels: what a visitor tries first, and two megapixels.
SIZES = ((512, 512), (1632, 1224))
DEGRADATIONS, SEVERITY, SEED = ("rain", "noise"), 0.5, 2504
# Takes the time from the choice of a file until the page's status says that it is restored, seconds.
CLOCK = """const status = document.getElementById("status");
document.getElementById("file").addEventListener("change", () => (window.chosen = performance.now()), true);
new MutationObserver(() => {
  if (status.textContent.endsWith(" is restored")) window.taken = (performance.now() - window.chosen) / 1000;
}).observe(status, {childList: true});"""
RUNTIME_VERSION = 'import("./runtime/ort.wasm.min.mjs").then(({env}) => arguments[0](env.versions.web));'

# Restorations that the package computes, (H, W, 3), by the files of the degraded pictures.
Expected = dict[Path, np.ndarray]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def build_page(folder: Path, model: Path) -> None:
    """Build the page, as a user does.

    Args:
        folder: to make.
        model: folder of a trained model.

    Raises:
        ValueError: the command refused; its last words.
    """
    command = [sys.executable, "-m", "demo.build_static", str(folder), "--model", str(model)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("error: ")[2])


def make_picture(size: tuple[int, int], folder: Path) -> Path:
    """Write a photograph that scikit-image ships, degraded at its final size.

    Args:
        size: width and height, pixels.
        folder: gets the file.
    """
    clean = ImageOps.fit(Image.fromarray(data.astronaut()), size, Image.Resampling.LANCZOS)
    rng = np.random.default_rng(SEED)
    drawn = [sample_degradation(kind, SEVERITY, rng) for kind in DEGRADATIONS]
    degraded = apply_degradations(to_float(np.asarray(clean)), drawn)
    path = folder / f"{size[0]}x{size[1]}.png"
    Image.fromarray(np.round(degraded * 255).astype(np.uint8)).save(path)
    return path


def restore_all(model: Path, paths: list[Path]) -> Expected:
    """Restore pictures with the package, in float32 on the CPU.

    Args:
        model: folder of a trained model.
        paths: of the pictures.
    """
    restorer = Restorer.from_pretrained(model, "cpu", "float32")
    return {path: np.asarray(restorer(path)) for path in paths}


def time_picture(page: StaticPage, path: Path, expected: np.ndarray, repeats: int) -> dict[str, Any]:
    """Have a picture restored several times.

    Args:
        page: it is open, and `CLOCK` runs on it.
        path: of the picture.
        expected: the package's restoration.
        repeats: runs after the first one.

    Returns:
        `width` and `height`; `first` and `again`, the first run and the median of the others, seconds; `difference`,
        the greatest from the package's restoration, levels of 255.
    """
    seconds = []
    for _ in range(repeats + 1):
        page.restore(path)
        seconds.append(page.driver.execute_script("return window.taken"))
    height, width, _ = expected.shape
    difference = np.abs(page.pixels("after").astype(int) - expected.astype(int)).max()
    return {
        "width": width,
        "height": height,
        "first": seconds[0],
        "again": statistics.median(seconds[1:]),
        "difference": int(difference),
    }


def visit(folder: Path, width: int, expected: Expected, repeats: int) -> dict[str, Any]:
    """Use the page on one screen, from an empty cache.

    Args:
        folder: the built page.
        width: of the screen, one of `SCREENS`.
        expected: pictures and their restorations.
        repeats: of `time_picture`.

    Returns:
        `screen`, its width; `isolated`; `engine`, what ran the network; `transfer`, bytes of the files that were sent;
        `elsewhere`, how many requests left the page's host; `pictures`, of `time_picture`; `chromium` and
        `onnxruntime_web`, versions.
    """
    with tempfile.TemporaryDirectory() as place, serving(folder, headers_for(width)) as server:
        with open_chromium(width, Path(place)) as driver:
            page = StaticPage(driver, server.origin)
            page.open()
            driver.execute_script(CLOCK)
            pictures = [time_picture(page, path, each, repeats) for path, each in expected.items()]
            record = {
                "screen": width,
                "isolated": driver.execute_script("return crossOriginIsolated"),
                "engine": page.wait_until_ready(),
                "transfer": sum(server.sizes),
                "pictures": pictures,
                "chromium": driver.capabilities["browserVersion"],
                "onnxruntime_web": driver.execute_async_script(RUNTIME_VERSION),
            }
        requests = read_requests(Path(place), server.origin)
    return record | {"elsewhere": sum(not url.startswith((f"{server.origin}/", "blob:", "data:")) for url in requests)}


@app.command()
def main(
    model: Annotated[Path, typer.Option(metavar="DIR", help="Folder of a trained model.")] = SHIPPED,
    screen: Annotated[list[int] | None, typer.Option(help="Only this width; may be repeated.")] = None,
    largest: Annotated[float, typer.Option(min=0, help="Megapixels; leave out larger pictures.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each picture after the first.")] = 3,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS / "browser.json",
) -> None:
    """Print what the static page transfers, how long it takes and how well it agrees, and write it."""
    sizes = [size for size in SIZES if size[0] * size[1] <= largest * 1e6]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "page"
        build_page(folder, model)
        expected = restore_all(model, [make_picture(size, Path(place)) for size in sizes])
        screens = tqdm(screen or SCREENS, unit="screen", disable=None)
        results = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": describe_command("benchmarks.browser"),
            "commit": read_commit(),
            "machine": describe_machine(),
            "model": model.resolve().name,
            "page": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "repeats": repeats,
            "visits": [visit(folder, width, expected, repeats) for width in screens],
        }
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(browser_grid(results)))


if __name__ == "__main__":
    app()
