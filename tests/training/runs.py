"""Training runs that are small enough for a test."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import squeezenet1_1

from modeling_dpmambair import DegradationExtractorModel, DPMambaIRConfig
from train_accelerate import train
from training.loop import Trainer
from training.recipe import Recipe
from training.scores import Batch

ROOT = Path(__file__).resolve().parents[2]

SHRUNK_EXTRACTOR = {"channels": [4, 4, 6, 8], "kernel_sizes": [3, 3], "embedding_dim": 8, "reconstruction_dim": 4}
SHRUNK = {"dim": 4, "d_state": 2, "prompt_dim": 2, "refinement_depth": 0, "extractor_config": SHRUNK_EXTRACTOR}

# 17 of 20 pictures train: epochs of 4 steps. The patches grow at step 6, in the middle of an epoch.
SETTINGS = {
    "data": {"held_out_every": 8, "validation_pictures": 2, "validation_patch": 32},
    "training": {
        "steps": 10,
        "batch_size": 4,
        "patch_schedule": [[0, 32], [6, 40]],
        "lr": 1e-3,
        "warmup_steps": 2,
        "mixed_precision": "no",
        "log_every": 2,
        "checkpoint_every": 4,
        "validate_every": 5,
    },
}


CLOCK = {"seconds", "samples_per_second", "memory_gb"}


def make_place(root: Path) -> SimpleNamespace:
    """Write twenty smooth pictures, a shrunk configuration, an untrained extractor of it, and an LPIPS of noise."""
    rng = np.random.default_rng(0)
    (root / "clean").mkdir()
    for index in range(20):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((56, 48), Image.Resampling.BICUBIC).save(root / "clean" / f"{index:02}.png")
    content = json.loads((ROOT / "configuration/model/tiny.json").read_text()) | SHRUNK
    (root / "model.json").write_text(json.dumps(content))
    config = DPMambaIRConfig.from_json_file(root / "model.json")
    DegradationExtractorModel(config.extractor_config).save_pretrained(root / "extractor")
    return SimpleNamespace(
        root=root,
        clean=root / "clean",
        model=root / "model.json",
        extractor=root / "extractor",
        backbone=backbone(root),
    )


def backbone(root: Path) -> Path:
    """Write untrained SqueezeNet features: the plumbing of LPIPS without its ImageNet weights."""
    save_file(squeezenet1_1().features.state_dict(prefix="features."), root / "squeeze.safetensors")
    return root / "squeeze.safetensors"


def recipe_file(place: SimpleNamespace, folder: Path, stage: str = "restorer", **training: object) -> Path:
    model = {"stage": stage, "config": str(place.model)}
    model |= {"lpips_backbone": str(place.backbone)} if stage == "extractor" else {"extractor": str(place.extractor)}
    data = SETTINGS["data"] | {"clean_dirs": [str(place.clean)]}
    path = folder / f"{stage}.json"
    path.write_text(json.dumps({"model": model, "data": data, "training": SETTINGS["training"] | training}))
    return path


def run(recipe: Path, output: Path, *overrides: str, resume: bool = False) -> bool:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return train(Recipe.from_file(recipe, overrides), output, resume=resume)


def log_of(output: Path) -> list[dict[str, object]]:
    """The log without what the clock and the system say."""
    records = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in records]


def assert_same_run(first: Path, second: Path) -> None:
    last = sorted(first.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-1].name
    for name in ("model.safetensors", f"{last}/model.safetensors", f"{last}/averaged.safetensors"):
        ours, theirs = load_file(first / name), load_file(second / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), f"{name} differs"
    moments = [torch.load(path / last / "optimizer.bin", weights_only=True)["state"] for path in (first, second)]
    assert all(torch.equal(moments[0][i][key], moments[1][i][key]) for i in moments[0] for key in moments[0][i])
    assert log_of(first) == log_of(second)


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something once a run has done this many steps."""
    original = Trainer._step

    def step_and_act(self: Trainer, batches: list[Batch]) -> None:
        original(self, batches)
        if self.progress.step == step:
            act()

    monkeypatch.setattr(Trainer, "_step", step_and_act)
