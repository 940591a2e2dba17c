"""LPIPS of RGB pictures as an `evaluate` module: `evaluate.load("restoration_metrics/lpips")`.

This folder is whole: copied elsewhere, or to the Hub, it runs without the project that it comes from.
"""

import warnings

import datasets
import evaluate
import lpips
import numpy as np
import torch
from safetensors.torch import load_file

_DESCRIPTION = "Learned perceptual distance, LPIPS version 0.1, of 8-bit RGB pictures; lower is better."

_INPUTS = """
Args:
    predictions: restored pictures, RGB, 8 bit, at least 32 x 32; sizes may differ from pair to pair.
    references: clean pictures in the same order.
    network: backbone, "squeeze", "alex" or "vgg".
    backbone: safetensors file with the features of torchvision's squeezenet1_1, alexnet or vgg16, trained on ImageNet
        (IMAGENET1K_V1), under torchvision's names.

Returns:
    lpips: mean over the pairs.
    lpips_per_image: one number per pair, in the order given.

Examples:
    Random weights stand in for the trained ones here. They show how a file is given; scores need trained weights.

    >>> import os
    >>> import tempfile
    >>> import evaluate
    >>> import numpy as np
    >>> import torchvision
    >>> from safetensors.torch import save_file
    >>> weights = torchvision.models.squeezenet1_1().state_dict()
    >>> file = os.path.join(tempfile.mkdtemp(), "squeezenet1_1.safetensors")
    >>> save_file(weights, file)
    >>> clean = np.full((32, 32, 3), 100, np.uint8)
    >>> lpips = evaluate.load("restoration_metrics/lpips")
    >>> scores = lpips.compute(predictions=[clean, clean // 2], references=[clean, clean], backbone=file)
    >>> scores["lpips_per_image"][0], scores["lpips_per_image"][1] > 0
    (0.0, True)
"""

_TORCHVISION_NAMES = {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
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
        self, predictions: list, references: list, backbone: str, network: str = "squeeze"
    ) -> dict[str, float | list[float]]:
        if not len(predictions):
            raise ValueError("`predictions` must hold at least one picture, got none; add the pictures to judge")
        distance = _load_distance(network, backbone)
        values = [
            distance(_to_tensor(restored), _to_tensor(clean), normalize=True).item()
            for restored, clean in zip(predictions, references, strict=True)
        ]
        return {"lpips": sum(values) / len(values), "lpips_per_image": values}


def _load_distance(network: str, backbone: str) -> torch.nn.Module:
    if network not in _TORCHVISION_NAMES:
        raise ValueError(
            f"`network` must be one of {', '.join(_TORCHVISION_NAMES)}, got {network!r}; choose one of them"
        )
    weights = load_file(backbone)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pretrained.*|.*weight enum.*", category=UserWarning)
        distance = lpips.LPIPS(net=network, pnet_rand=True, verbose=False).eval().requires_grad_(False)
    # `slice3.5.weight` of `lpips` is `features.5.weight` of torchvision.
    names = {key: f"features.{key.partition('.')[2]}" for key in distance.net.state_dict()}
    if absent := sorted(set(names.values()) - weights.keys()):
        raise ValueError(
            f"`backbone` must hold torchvision's {_TORCHVISION_NAMES[network]}, got no {absent[0]} in {backbone}; "
            "give the file that fits `network`"
        )
    distance.net.load_state_dict({key: weights[its_name] for key, its_name in names.items()})
    return distance


def _to_tensor(picture: object) -> torch.Tensor:
    pixels = np.array(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 32:
        raise ValueError(
            f"pictures must be RGB of 8 bits, at least 32 x 32 pixels, got {pixels.dtype} {pixels.shape}; convert them"
        )
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
