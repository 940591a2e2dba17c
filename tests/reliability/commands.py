"""Whole commands on small work, as a user starts them, and what each leaves."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from safetensors.torch import load_file

from modeling_dpmambair import DPMambaIRImageProcessor
from tests.modeling_dpmambair.models import small_model
from tests.restoring import photograph, read, save
from tests.training.runs import log_of, make_place, recipe_file

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Work:
    """A command and how to read what it left.

    Attributes:
        name: of the command.
        arguments: of Python, with `{out}` where the output goes.
        digest: from the output, what must be equal after any interruption.
        resume: what else must be given to go on, where the first start left something.
    """

    name: str
    arguments: tuple[str, ...]
    digest: Callable[[Path], object]
    resume: tuple[str, ...] = ()

    def command(self, out: Path) -> list[str]:
        """Return the command as it is started, or started again."""
        given = [each.format(out=out) for each in self.arguments]
        begun = self.resume and any((out / name).exists() for name in ("log.jsonl",))
        begun = begun or (self.resume and any(out.glob("checkpoint-*[0-9]")))
        return [sys.executable, *given, *(self.resume if begun else ())]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the commands: no network, one thread, caches below a folder."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def make_works(place: Path) -> dict[str, Work]:
    """Make what the commands work on below a folder."""
    torch.manual_seed(0)
    model = place / "model"
    small_model(has_description=True).save_pretrained(model)
    DPMambaIRImageProcessor().save_pretrained(model)
    small_model(first_mixer_level=3, has_heb=False).save_pretrained(place / "light")  # half as long to export
    for seed in range(24):
        save(place / "in" / f"{seed % 3}" / f"{seed:02}.png", photograph((48, 40), seed=seed))
        save(place / "pairs" / "degraded" / f"{seed:02}.png", photograph((48, 40), seed=seed))
        save(place / "pairs" / "clean" / f"{seed:02}.png", photograph((48, 40), seed=seed + 100))
    (place / "training").mkdir()
    settings = {"steps": 24, "checkpoint_every": 5, "validate_every": 8, "workers": 1, "patch_schedule": [[0, 32]]}
    recipe = recipe_file(make_place(place / "training"), place / "training", **settings)
    restore = ("-m", "dpmambair.restore", f"{place}/in", "-o", "{out}", "--model", str(model), "--device", "cpu")
    evaluate = (
        "evaluate_accelerate.py",
        "--pairs",
        f"{place}/pairs",
        "--model",
        str(model),
        "--output",
        "{out}/a.json",
    )
    build = ("-m", "dataset_scripts", "build", "noise_sigma25", f"{place}/in", "-o", "{out}/set")
    works = (
        Work(
            "training", ("train_accelerate.py", "--config", str(recipe), "--output", "{out}"), _trained, ("--resume",)
        ),
        Work("bulk restoring", restore, _restored),
        Work("evaluation", (*evaluate, "--output", "{out}/a.json"), _evaluated),
        Work("dataset building", build, _built),
        Work("export", ("export_model.py", f"{place}/light", "-o", "{out}/a.onnx"), _exported),
    )
    return {work.name: work for work in works}


def names_below(folder: Path) -> list[str]:
    """Return the names of all that lies below a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def _trained(out: Path) -> object:
    names = [name for name in names_below(out) if not name.startswith("training")]  # the tracker's event files
    weights = load_file(out / "model.safetensors")
    return names, {name: value.numpy().tobytes() for name, value in weights.items()}, log_of(out)


def _restored(out: Path) -> object:
    names = [name for name in names_below(out) if not name.endswith(".jsonl")]
    return names, {name: np.asarray(read(out / name)).tobytes() for name in names if name.endswith(".png")}


def _evaluated(out: Path) -> object:
    results = json.loads((out / "a.json").read_text())
    facts = {"command", "commit", "machine", "date"}
    rows = pyarrow.parquet.read_table(out / "a.parquet").to_pylist()
    return names_below(out), {name: value for name, value in results.items() if name not in facts}, rows


def _built(out: Path) -> object:
    tables = sorted((out / "set").rglob("*.parquet"))
    return names_below(out), [pyarrow.parquet.read_table(path).to_pylist() for path in tables]


def _exported(out: Path) -> object:
    return names_below(out), (out / "a.onnx").read_bytes()


def forget(*folders: Path) -> None:
    """Remove folders."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
