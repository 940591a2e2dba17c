"""Draw a model's worst restorations for its card: `python -m benchmarks.failures --model DIR`.

The pictures of the benchmarks may not be shown everywhere, so their place is taken by photographs that scikit-image
ships and whose licences are free (examples/README.md names them), degraded as the benchmark degrades.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageOps
from skimage import data
from tqdm import tqdm

from benchmarks.failures_table import failures_grid
from benchmarks.files import RESULTS, name_weights, write_text
from benchmarks.rendering import format_columns
from dataset_scripts.degradations import apply_degradations, sample_degradation
from dataset_scripts.transforms import to_float
from dpmambair.files import replacing
from modeling_dpmambair import Restorer
from restoration_metrics.figures import join_pictures
from restoration_metrics.scores import DEGRADED, Scorer, compare

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SIZE = (348, 232)
PANEL = (264, 176)  # what is shown of them, at one pixel for one
CAPTION = 24
STRIPS = 4

Strip = tuple[dict[str, Any], list[Image.Image]]


def load_photograph(name: str) -> Image.Image:
    """Return a photograph that scikit-image ships, RGB of `SIZE`.

    Args:
        name: a function of `skimage.data`.
    """
    return ImageOps.fit(Image.fromarray(getattr(data, name)()), SIZE, Image.Resampling.LANCZOS)


def restore_all(restorer: Restorer, benchmark: dict[str, Any]) -> list[Strip]:
    """Degrade each photograph in each way, and restore it.

    Args:
        restorer: the model.
        benchmark: gives `kinds`, `severity` and `seed`.

    Returns:
        For each: `task`, `photograph` and its scores; and the pictures degraded, restored and clean.
    """
    strips = []
    cases = [(kind, place) for kind in range(len(benchmark["kinds"])) for place in range(len(PHOTOGRAPHS))]
    for kind, place in tqdm(cases, unit="picture", disable=None):
        task, clean = benchmark["kinds"][kind], load_photograph(PHOTOGRAPHS[place])
        rng = np.random.default_rng((benchmark["seed"], kind, place))
        drawn = sample_degradation(task, benchmark["severity"], rng)
        degraded_values = apply_degradations(to_float(np.asarray(clean)), [drawn])
        degraded = Image.fromarray(np.round(degraded_values * 255).astype(np.uint8))
        restored = restorer(degraded)
        scores = {DEGRADED: Scorer()(degraded, clean), "restored": Scorer()(restored, clean)}
        facts = {"task": task, "photograph": PHOTOGRAPHS[place], **compare(scores, "restored")}
        strips.append((facts, [degraded, restored, clean]))
    return strips


def find_worst(strips: list[Strip]) -> list[Strip]:
    """Choose the lowest gains in PSNR, at most one of each degradation.

    Args:
        strips: all restorations.

    Returns:
        `STRIPS` of them, the lowest gain first.
    """
    worst: dict[str, Strip] = {}
    for strip in sorted(strips, key=lambda each: each[0]["psnr_gain"]):
        worst.setdefault(strip[0]["task"], strip)
    return list(worst.values())[:STRIPS]


def format_score(value: float | None) -> str:
    """Set a PSNR in words; nothing for None.

    Args:
        value: in dB.
    """
    return "" if value is None else f", {value:.2f} dB"


def draw_strip(strip: Strip) -> Image.Image:
    """Draw the middle of the three pictures side by side under captions.

    Args:
        strip: a restoration.
    """
    facts, pictures = strip
    left, top = ((whole - part) // 2 for whole, part in zip(SIZE, PANEL, strict=True))
    panels = join_pictures([one.crop((left, top, left + PANEL[0], top + PANEL[1])) for one in pictures])
    given = f"{facts['task'].replace('_', ' ')}: degraded" if "task" in facts else "undamaged: as given"
    words = [
        given + format_score(facts.get("psnr_degraded")),
        "restored" + format_score(facts["psnr_restored"]),
        "clean",
    ]
    captions = Image.new("RGB", (panels.width, CAPTION), "white")
    pen = ImageDraw.Draw(captions)
    for place, word in enumerate(words):
        pen.text((place * (panels.width // 3) + 4, CAPTION - 6), word, "black", anchor="ls", font_size=14)
    return join_pictures([captions, panels], vertical=True)


def write_picture(strips: list[Strip], path: Path) -> None:
    """Write all strips as one PNG file, whole or not at all.

    Args:
        strips: one below the other.
        path: file to write.
    """
    with replacing(path) as unfinished:
        join_pictures([draw_strip(strip) for strip in strips], vertical=True).save(unfinished, "PNG", optimize=True)


def restore_undamaged(restorer: Restorer) -> list[Strip]:
    """Restore each photograph as it is, and measure what that costs.

    Args:
        restorer: the model.

    Returns:
        For each: `photograph` and `psnr_restored` (null where it came back unchanged); and the pictures given,
        restored and clean. The lowest PSNR comes first.
    """
    found = []
    for name in PHOTOGRAPHS:
        clean = load_photograph(name)
        restored = restorer(clean)
        value = Scorer()(restored, clean)["psnr"]
        found.append(({"photograph": name, "psnr_restored": value}, [clean, restored, clean]))
    found.sort(key=lambda each: each[0]["psnr_restored"])
    for facts, _ in found:
        facts["psnr_restored"] = facts["psnr_restored"] if math.isfinite(facts["psnr_restored"]) else None
    return found


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the trained model.")],
    benchmark: Annotated[str, typer.Option(help="Name in configuration/benchmarks.json.")] = "synthetic7",
    output: Annotated[Path, typer.Option(help="JSON file to write.", show_default="the tables' own")] = (
        RESULTS / "failures.json"
    ),
    picture: Annotated[Path, typer.Option(help="PNG file to write.", show_default="the card's own")] = (
        ROOT / "docs" / "images" / "failures.png"
    ),
) -> None:
    """Draw the worst restorations of free photographs, and write their scores for the card."""
    definition = json.loads((ROOT / "configuration" / "benchmarks.json").read_text(encoding="utf-8"))[benchmark]
    restorer = Restorer.from_pretrained(model, dtype="float32")
    strips = restore_all(restorer, definition)
    worst, undamaged = find_worst(strips), restore_undamaged(restorer)
    results = {
        "model": name_weights(model),
        "benchmark": benchmark,
        "severity": definition["severity"],
        "seed": definition["seed"],
        "pictures": len(strips),
        "worst": [facts for facts, _ in worst],
        "undamaged": [facts for facts, _ in undamaged],
    }
    write_picture([*worst, undamaged[0]], picture)
    write_text(output, json.dumps(results, indent=2, allow_nan=False) + "\n")
    typer.echo(format_columns(failures_grid(results)))


if __name__ == "__main__":
    app()
