"""What the tests of the restoring command share: pictures, files, and a model that restores nothing."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from dpmambair import restore
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRImageProcessor, DPMambaIRModel

ROOT = Path(__file__).resolve().parents[1]


def save_random_model(folder):
    """Save a tiny model that changes pictures: random weights, and a last layer that is not zero.

    Like the shipped one it scans at a quarter of the resolution and below, and so loads twice as fast.
    """
    torch.manual_seed(0)
    settings = json.loads((ROOT / "configuration/model/tiny.json").read_text(encoding="utf-8"))
    model = DPMambaIRModel(DPMambaIRConfig.from_dict(settings | {"first_mixer_level": 2, "refinement_depth": 0}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    DPMambaIRImageProcessor().save_pretrained(folder)
    return folder


def run_command(model, *arguments):
    """Run the command with a model's folder, and return typer's result."""
    return CliRunner().invoke(restore.main, [*map(str, arguments), "--model", str(model)])


def photograph(size=(24, 16), mode="RGB", seed=0):
    """Return a picture of random values."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def save(path, image=None, **options):
    """Save a picture (a small one of random values unless given) with its parent folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or photograph()).save(path, **options)
    return path


def read(path):
    """Return the picture with its file closed."""
    with Image.open(path) as image:
        image.load()
        return image


def files_below(folder):
    """Return the names of all files below a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def pictures_below(folder):
    """Return the names of all files below an output folder but its manifests."""
    return [name for name in files_below(folder) if not name.endswith(".jsonl")]


def records_below(folder):
    """Return the records of an output folder's manifests, without the lines that tell of the settings."""
    lines = [line for path in sorted(Path(folder).glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [record for record in map(json.loads, lines) if "output" in record]
