"""SSIM of RGB pictures as an `evaluate` module: `evaluate.load("restoration_metrics/ssim")`.

This folder is whole: copied elsewhere, or to the Hub, it runs without the project that it comes from.
"""

import datasets
import evaluate
import numpy as np
from skimage.metrics import structural_similarity

_DESCRIPTION = "Structural similarity, Gaussian 11 x 11, sigma 1.5, mean over RGB, 8-bit pictures; higher is better."

_INPUTS = """
Args:
    predictions: restored pictures, RGB, 8 bit, at least 11 x 11; sizes may differ from pair to pair.
    references: clean pictures in the same order.

Returns:
    ssim: mean over the pairs.
    ssim_per_image: one number per pair, in the order given.

Examples:
    >>> import evaluate
    >>> import numpy as np
    >>> clean = np.full((16, 16, 3), 100, np.uint8)
    >>> ssim = evaluate.load("restoration_metrics/ssim")
    >>> scores = ssim.compute(predictions=[clean, clean + np.uint8(50)], references=[clean, clean])
    >>> [round(value, 4) for value in scores["ssim_per_image"]]
    [1.0, 0.9231]
    >>> round(scores["ssim"], 4)
    0.9615
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
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
        if not len(predictions):
            raise ValueError("`predictions` must hold at least one picture, got none; add the pictures to judge")
        window = {"channel_axis": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        values = [
            float(structural_similarity(_to_array(clean), _to_array(restored), **window))
            for restored, clean in zip(predictions, references, strict=True)
        ]
        return {"ssim": sum(values) / len(values), "ssim_per_image": values}


def _to_array(picture: object) -> np.ndarray:
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 11:
        raise ValueError(
            f"pictures must be RGB of 8 bits, at least 11 x 11 pixels, got {pixels.dtype} {pixels.shape}; convert them"
        )
    return pixels
