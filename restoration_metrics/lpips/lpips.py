"""LPIPS of RGB pictures as an `evaluate` module: `evaluate.load("restoration_metrics/lpips")`."""

import datasets
import evaluate

from restoration_metrics import load_lpips, lpips_distance
from restoration_metrics.pictures import measure_pictures

_DESCRIPTION = "Learned perceptual distance, LPIPS version 0.1, of 8-bit RGB pictures; lower is better."

_INPUTS = """
Args:
    predictions: restored pictures, RGB, 8 bit, at least 32 x 32; sizes may differ from pair to pair.
    references: clean pictures in the same order.
    network: backbone, "squeeze", "alex" or "vgg".
    backbone: safetensors file with its features under torchvision's names; without it, torch's hub cache.

Returns:
    lpips: mean over the pairs.
    lpips_per_image: one number per pair, in the order given.
"""


class LPIPS(evaluate.Metric):
    """Mean and single learned perceptual distances."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _compute(
        self, predictions: list, references: list, network: str = "squeeze", backbone: str | None = None
    ) -> dict[str, float | list[float]]:
        perceptual = load_lpips(network, backbone)
        values = measure_pictures(lambda a, b: lpips_distance(a, b, perceptual), predictions, references)
        return {"lpips": sum(values) / len(values), "lpips_per_image": values}
