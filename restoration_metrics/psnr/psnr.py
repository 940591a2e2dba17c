"""PSNR of RGB pictures as an `evaluate` module: `evaluate.load("restoration_metrics/psnr")`."""

import datasets
import evaluate

from restoration_metrics import psnr
from restoration_metrics.pictures import measure_pictures

_DESCRIPTION = "Peak signal-to-noise ratio in decibels over height, width and RGB of 8-bit pictures; higher is better."

_INPUTS = """
Args:
    predictions: restored pictures, RGB, 8 bit; sizes may differ from pair to pair.
    references: clean pictures in the same order.

Returns:
    psnr: mean over the pairs, infinite when one pair is identical.
    psnr_per_image: one number per pair, in the order given.
"""


class PSNR(evaluate.Metric):
    """Mean and single peak signal-to-noise ratios."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | list[float]]:
        values = measure_pictures(psnr, predictions, references)
        return {"psnr": sum(values) / len(values), "psnr_per_image": values}
