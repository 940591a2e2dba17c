"""SSIM of RGB pictures as an `evaluate` module: `evaluate.load("restoration_metrics/ssim")`."""

import datasets
import evaluate

from restoration_metrics import ssim
from restoration_metrics.pictures import measure_pictures

_DESCRIPTION = "Structural similarity, Gaussian 11 x 11, sigma 1.5, mean over RGB, 8-bit pictures; higher is better."

_INPUTS = """
Args:
    predictions: restored pictures, RGB, 8 bit, at least 11 x 11; sizes may differ from pair to pair.
    references: clean pictures in the same order.

Returns:
    ssim: mean over the pairs.
    ssim_per_image: one number per pair, in the order given.
"""


class SSIM(evaluate.Metric):
    """Mean and single structural similarities."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | list[float]]:
        values = measure_pictures(ssim, predictions, references)
        return {"ssim": sum(values) / len(values), "ssim_per_image": values}
