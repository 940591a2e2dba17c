"""PSNR of RGB pictures as an `evaluate` module: `evaluate.load("restoration_metrics/psnr")`.

This folder is whole: copied elsewhere, or to the Hub, it runs without the project that it comes from.
"""

import datasets
import evaluate
import numpy as np
from skimage.metrics import peak_signal_noise_ratio

_DESCRIPTION = "Peak signal-to-noise ratio in decibels over height, width and RGB of 8-bit pictures; higher is better."

_INPUTS = """
Args:
    predictions: restored pictures, RGB, 8 bit; sizes may differ from pair to pair.
    references: clean pictures in the same order.

Returns:
    psnr: mean over the pairs, infinite when one pair is identical.
    psnr_per_image: one number per pair, in the order given.

Examples:
    >>> import evaluate
    >>> import numpy as np
    >>> clean = np.full((16, 16, 3), 100, np.uint8)
    >>> psnr = evaluate.load("restoration_metrics/psnr")
    >>> scores = psnr.compute(predictions=[clean + np.uint8(10), clean + np.uint8(1)], references=[clean, clean])
    >>> [round(value, 4) for value in scores["psnr_per_image"]]
    [28.1308, 48.1308]
    >>> round(scores["psnr"], 4)
    38.1308
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
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
        if not len(predictions):
            raise ValueError("`predictions` must hold at least one picture, got none; add the pictures to judge")
        with np.errstate(divide="ignore"):  # of identical pictures, whose PSNR is infinite
            pairs = zip(predictions, references, strict=True)
            values = [
                float(peak_signal_noise_ratio(_to_array(clean), _to_array(restored))) for restored, clean in pairs
            ]
        return {"psnr": sum(values) / len(values), "psnr_per_image": values}


def _to_array(picture: object) -> np.ndarray:
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pictures must be RGB of 8 bits, got {pixels.dtype} {pixels.shape}; convert them")
    return pixels
