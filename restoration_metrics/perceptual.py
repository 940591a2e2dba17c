"""LPIPS (Zhang et al. 2018, arXiv:1801.03924v2) as a metric and as a loss, without any download by surprise."""

import warnings
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from restoration_metrics.functional import check_image_batches

TORCHVISION_NAMES = {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}
SMALLEST_IMAGE = 32


class PerceptualLoss(nn.Module):
    """Mean LPIPS of a batch, as a term of a training loss.

    Frozen and always in evaluation mode, also inside a model that trains; gradients flow to both inputs.

    Args:
        network: the `lpips.LPIPS` module that measures, its weights already loaded.
    """

    def __init__(self, network: nn.Module):
        """Freeze `network`."""
        super().__init__()
        self.network = network.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever `mode` says: the heads contain dropout."""
        return super().train(False)

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Average `lpips_distance` over the batch.

        Args:
            restored: images to judge, (B, 3, H, W), RGB in [0, 1], at least 32 x 32 pixels.
            clean: ground truths, same shape and range.

        Returns:
            Mean distance, a float32 scalar; 0 for identical images.
        """
        return lpips_distance(restored, clean, self).mean()


def lpips_distance(restored: Tensor, clean: Tensor, perceptual: PerceptualLoss) -> Tensor:
    """Measure the learned perceptual distance of each pair; lower is better.

    Computed in float32 under autocast too: bfloat16 keeps too few digits of the features' small differences.

    Args:
        restored: images to judge, (B, 3, H, W), RGB in [0, 1], at least 32 x 32 pixels.
        clean: ground truths, same shape and range.
        perceptual: the measuring module, from `load_lpips`.

    Returns:
        Distances, (B,), float32; 0 where both images are identical.

    Raises:
        ValueError: an argument is no batch of RGB images, the shapes differ, or the images are too small.
    """
    check_image_batches(restored, clean, minimum=SMALLEST_IMAGE)
    with torch.autocast(restored.device.type, enabled=False):
        return perceptual.network(restored.float(), clean.float(), normalize=True).flatten()


def load_lpips(network: str = "squeeze", backbone: str | Path | None = None) -> PerceptualLoss:
    """Load LPIPS version 0.1: the linear heads from the `lpips` package, the ImageNet backbone from a local file.

    Args:
        network: backbone's name at `lpips`: "squeeze", "alex" or "vgg".
        backbone: safetensors file with the features of torchvision's `squeezenet1_1`, `alexnet` or `vgg16` under
            torchvision's names. Without it, the file that torchvision keeps in torch's hub cache.

    Returns:
        The frozen measuring module on the CPU; called on two batches in [0, 1] it gives their mean distance.

    Raises:
        FileNotFoundError: there is no backbone at the given place or in the cache.
        ImportError: the package `lpips` is missing.
        ValueError: `network` is unknown, or the file holds another network.
    """
    if network not in TORCHVISION_NAMES:
        names = ", ".join(TORCHVISION_NAMES)
        raise ValueError(f"`network` must be one of {names}, got {network!r}; choose one of them")
    features = _read_backbone(network, backbone)
    module = _build_lpips(network)
    module.net.load_state_dict(_rename_to_slices(features, module.net, network))
    return PerceptualLoss(module)


def _build_lpips(network: str) -> nn.Module:
    # Imported here because `lpips` needs seconds to import, and PSNR and SSIM work without it.
    try:
        from lpips import LPIPS
    except ImportError as error:
        raise ImportError("LPIPS must have the package `lpips`; run `pip install lpips`") from error
    # The backbone's weights are drawn first and replaced then: callers' random numbers must not depend on it.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pretrained.*|.*weight enum.*", category=UserWarning)
        return LPIPS(net=network, pnet_rand=True, verbose=False)


def _read_backbone(network: str, backbone: str | Path | None) -> dict[str, Tensor]:
    if backbone is None:
        return torch.load(find_cached_backbone(network), map_location="cpu", weights_only=True)
    if not Path(backbone).is_file():
        raise FileNotFoundError(
            f"`backbone` must be an existing safetensors file, got {str(backbone)!r}; "
            f"save the features of torchvision's {TORCHVISION_NAMES[network]} there"
        )
    try:
        return load_file(backbone)
    except SafetensorError as error:
        raise ValueError(
            f"`backbone` must be a safetensors file, got {str(backbone)!r} ({error}); "
            "save the features with `safetensors.torch.save_file`"
        ) from error


def find_cached_backbone(network: str) -> Path:
    """Find the weights that torchvision keeps in torch's hub cache.

    Args:
        network: "squeeze", "alex" or "vgg".

    Raises:
        FileNotFoundError: they are not there.
    """
    name = TORCHVISION_NAMES[network]
    # `lpips` was calibrated on the first ImageNet weights; torchvision's newer ones would give other distances.
    weights = get_model_weights(name).IMAGENET1K_V1
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not cached.is_file():
        raise FileNotFoundError(
            f"`backbone` must be given while torch's hub cache lacks {name}, got None and no file {str(cached)!r}; "
            "name a safetensors file, or let torchvision download the weights once: "
            f"python -c \"import torchvision; torchvision.models.{name}(weights='IMAGENET1K_V1')\""
        )
    return cached


def _rename_to_slices(features: dict[str, Tensor], net: nn.Module, network: str) -> dict[str, Tensor]:
    """Give torchvision's `features.5.weight` the name `slice3.5.weight` that `lpips` has for the same layer."""
    expected = net.state_dict()
    renamed = {}
    for key, value in expected.items():
        name = f"features.{key.partition('.')[2]}"
        if name not in features or features[name].shape != value.shape:
            found = tuple(features[name].shape) if name in features else "nothing"
            raise ValueError(
                f"`backbone` must hold torchvision's {TORCHVISION_NAMES[network]}, "
                f"got {found} for `{name}` instead of {tuple(value.shape)}; give the file that fits `network`"
            )
        renamed[key] = features[name]
    return renamed
