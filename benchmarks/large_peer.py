"""Restore a picture by NAFNet-32 of spandrel, for its time and memory: `python -m benchmarks.large_peer IN OUT`."""

import sys
from pathlib import Path

import torch
from PIL import Image
from spandrel.architectures.NAFNet.__arch.NAFNet_arch import NAFNet

from dpmambair.memory import keep_freed_memory
from modeling_dpmambair import plan_tiles, read_picture, write_picture

NAME = "NAFNet-32"
TILE, OVERLAP = 512, 32


def command_of(picture: Path, output: Path) -> tuple[str, ...]:
    """Return the command that restores a picture into a file."""
    return (sys.executable, "-m", "benchmarks.large_peer", str(picture), str(output))


@torch.inference_mode()
def restore(picture: Path, output: Path) -> None:
    """Restore a picture file in tiles; with random weights."""
    keep_freed_memory()
    Image.MAX_IMAGE_PIXELS = None
    network = NAFNet(width=32, middle_blk_num=12, enc_blk_nums=[2, 2, 4, 8], dec_blk_nums=[2, 2, 2, 2]).eval()
    degraded = read_picture(picture)
    pixels = degraded.pixels[None]
    restored = torch.zeros_like(pixels)
    for tile in plan_tiles(*pixels.shape[2:], (TILE, TILE), OVERLAP):
        tile.of(restored).add_(network(tile.of(pixels)) * tile.weights)
    write_picture(degraded.with_pixels(restored[0]), output)


if __name__ == "__main__":
    restore(Path(sys.argv[1]), Path(sys.argv[2]))
