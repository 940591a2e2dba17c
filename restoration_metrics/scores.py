"""Scores of restorations: each picture before and after, averages per task, and the table that shows them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from restoration_metrics.functional import psnr, ssim
from restoration_metrics.pictures import measure_pictures

METRICS = {"psnr": psnr, "ssim": ssim}
AVERAGED = tuple(f"{metric}_{moment}" for metric in METRICS for moment in ("degraded", "restored", "gain"))


def score(degraded: Image.Image, restored: Image.Image, clean: Image.Image) -> dict[str, float]:
    """Measure a picture before and after its restoration.

    Args:
        degraded: the restorer's input, RGB, 8 bit.
        restored: its output, likewise.
        clean: the ground truth, likewise.

    Returns:
        `psnr_degraded`, `psnr_restored` and `psnr_gain` in dB, and the same three of `ssim`.
    """
    values = {}
    for name, metric in METRICS.items():
        before, after = measure_pictures(metric, [degraded, restored], [clean, clean])
        values |= {f"{name}_degraded": before, f"{name}_restored": after, f"{name}_gain": after - before}
    return values


def average(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Average the numbers of `score` over pictures.

    Args:
        scores: at least one record.

    Returns:
        `pictures`, their count, and the mean of every number.
    """
    means = {name: float(np.mean([one[name] for one in scores])) for name in AVERAGED}
    return {"pictures": len(scores)} | means


def summarize(scores: Sequence[dict[str, Any]], kinds: Sequence[str]) -> dict[str, Any]:
    """Bring the measurements into the form of the results file.

    Args:
        scores: all records, in any order.
        kinds: the tasks, in the order to report.

    Returns:
        `tasks` and `overall`, the averages, and `images`, the records by task and picture.
    """
    ordered = sorted(scores, key=lambda one: (kinds.index(one["task"]), one["file_index"]))
    tasks = {kind: average([one for one in ordered if one["task"] == kind]) for kind in kinds}
    return {"tasks": tasks, "overall": average(ordered), "images": ordered}


def format_table(results: dict[str, Any]) -> str:
    """Set the averages as a table of text.

    Args:
        results: what `summarize` returned.

    Returns:
        One line per task, then all together, under two lines of headings.
    """
    lines = [
        f"{'':10} {'PSNR (dB)':^26} {'SSIM':^26}",
        f"{'task':10}" + 2 * f" {'before':>8} {'after':>8} {'gain':>8}",
    ]
    for task, mean in (results["tasks"] | {"overall": results["overall"]}).items():
        numbers = (f"{mean[name]:8.{2 if name.startswith('psnr') else 4}f}" for name in AVERAGED)
        lines.append(" ".join([f"{task:10}", *numbers]))
    return "\n".join(lines)
