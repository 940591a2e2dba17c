"""Other people's restoration networks, from files of weights, by spandrel."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

SUFFIXES = (".safetensors", ".pth")


@dataclass(frozen=True)
class Peer:
    """A network that spandrel knows.

    Attributes:
        descriptor: spandrel's `ImageModelDescriptor`, which pads and crops as the network needs.
    """

    descriptor: Any

    def __call__(self, degraded: Image.Image) -> Image.Image:
        """Restore a picture.

        Args:
            degraded: RGB, 8 bit.

        Returns:
            A picture of the same size, RGB, 8 bit.
        """
        pixels = torch.from_numpy(np.array(degraded)).permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W)
        restored = self.descriptor(pixels.to(self.descriptor.device))[0].permute(1, 2, 0)
        return Image.fromarray(restored.mul(255).round().byte().cpu().numpy())


def load_peer(path: Path, device: torch.device) -> Peer:
    """Load a network from its weights; the architecture is read off them.

    Args:
        path: safetensors file, or a `.pth` file that holds tensors alone.
        device: where it will run.

    Raises:
        ImportError: the package `spandrel` is missing.
        OSError: the file cannot be read.
        ValueError: the file would have to be unpickled, holds no network that spandrel knows, or one that does more or
            less than restore pictures.
    """
    spandrel = _import_spandrel()
    weights = spandrel.canonicalize_state_dict(read_weights(path))
    try:
        descriptor = spandrel.ModelLoader(device).load_from_state_dict(weights)
    except Exception as error:  # weights that nearly fit an architecture fail in it in any way
        reason = " ".join(str(error).split()) or "unknown names"
        raise ValueError(
            f"`path` must hold a network that spandrel knows, got {path}: {reason}; its documentation lists them"
        ) from error
    shape = (descriptor.scale, descriptor.input_channels, descriptor.output_channels)
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or shape != (1, 3, 3):
        raise ValueError(
            f"`path` must hold a network from RGB to RGB of one size, got {descriptor.architecture.name} with scale, "
            f"inputs and outputs {shape} in {path}; give a restorer"
        )
    return Peer(descriptor.eval())


def _import_spandrel() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the functions of torch that its networks use
        try:
            import spandrel
        except ImportError as error:
            raise ImportError("`spandrel` must be installed for peers, got none; run pip install spandrel") from error
        # Restormer, MPRNet and others, whose licences spandrel keeps apart, where the user has chosen to install them.
        with suppress(ImportError):
            import spandrel_extra_arches

            spandrel_extra_arches.install(ignore_duplicates=True)
    return spandrel


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """Read a file of weights without running anything in it.

    spandrel itself unpickles `.pth` files with a list of what they may call, and runs TorchScript in `.pt`. Here torch
    reads the former by `weights_only`, which is kept up with what is found out about pickles; the latter is refused.

    Args:
        path: safetensors or `.pth` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: another kind of file, a damaged one, or one that holds more than tensors.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"`path` must end in {' or '.join(SUFFIXES)}, got {path}; convert it to safetensors")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged files raise half a dozen unrelated types; torch's texts advise to trust them
        raise ValueError(
            f"`path` must hold tensors alone, got {path} ({type(error).__name__}); convert it to safetensors"
        ) from error
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"`path` must hold weights by name, got {type(weights).__name__} in {path}; give a state dict"
        )
    return weights
