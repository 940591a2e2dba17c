"""Training as a whole, at the light model's size: `make smoke`."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import skimage
from PIL import Image

from tests.training.runs import ROOT, SHRUNK, SHRUNK_EXTRACTOR, backbone, log_of, make_place, run
from training.recipe import Recipe

pytestmark = pytest.mark.slow

TRAIN = ROOT / "configuration" / "train"
ABLATIONS = sorted(path for path in TRAIN.glob("ablations/*.json") if not path.stem.endswith("extractor"))
FEW_STEPS = (
    "training.steps=200",
    "training.warmup_steps=20",
    "training.decay_steps=null",
    "training.batch_size=4",
    "training.patch_schedule=[[0,32]]",
    "training.mixed_precision=no",
    "training.workers=0",
    "training.log_every=40",
    "training.checkpoint_every=200",
    "training.validate_every=200",
    "data.held_out_every=8",
    "data.validation_pictures=1",
    "data.validation_patch=32",
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs, cut into tiles: those that scikit-image ships."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        picture = getattr(skimage.data, name)()
        for index, (top, left) in enumerate(((0, 0), (0, 128), (128, 0), (128, 128))):
            tile = picture[top : top + 128, left : left + 128]
            Image.fromarray(tile).save(folder / f"{name}_{index}.png")
    return folder


def test_extractor_lowers_its_loss(photographs: Path, tmp_path: Path) -> None:
    light = "model.config=configuration/model/light.json", "model.lpips_network=squeeze"
    lpips = f"model.lpips_backbone={backbone(tmp_path)}"
    assert run(TRAIN / "extractor.json", tmp_path / "run", *FEW_STEPS, f"data.clean_dirs={photographs}", *light, lpips)
    assert_loss_falls(tmp_path / "run")


@pytest.fixture(scope="module")
def description_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("describe")
    recipe = TRAIN / "light_cpu_describe.json"
    assert run(recipe, folder / "run", *FEW_STEPS, f"data.clean_dirs={photographs}")
    return folder / "run"


def test_extractor_that_learns_to_describe_lowers_its_loss(description_run: Path) -> None:
    assert_loss_falls(description_run)


def test_restorer_lowers_its_loss(description_run: Path, photographs: Path, tmp_path: Path) -> None:
    model = f"model.extractor={description_run}"
    recipe = TRAIN / "light_cpu_restorer.json"
    assert run(recipe, tmp_path / "run", *FEW_STEPS, f"data.clean_dirs={photographs}", model)
    assert_loss_falls(tmp_path / "run")


def assert_loss_falls(output: Path) -> None:
    losses = [record["loss"] for record in log_of(output) if "loss" in record]
    assert sum(losses[-2:]) < sum(losses[:2])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_ablation_starts_and_steps(path: Path, place: SimpleNamespace, tmp_path: Path) -> None:
    steps = "training.steps=2", "training.warmup_steps=0", "training.validate_every=2", "training.log_every=1"
    trained_extractor = place.extractor
    if path.stem.startswith("embedding_"):
        recipe = path.with_stem(f"{path.stem}_extractor")
        settings = (
            *FEW_STEPS,
            *steps,
            *shrunk(recipe),
            "model.lpips_network=squeeze",
            f"model.lpips_backbone={place.backbone}",
        )
        clean = f"data.clean_dirs={place.clean}"
        assert run(recipe, tmp_path / "extractor", *settings, clean, "training.warmup_steps=0")
        trained_extractor = tmp_path / "extractor" / "extractor"
    settings = (*FEW_STEPS, *steps, *shrunk(path), f"model.extractor={trained_extractor}")
    assert run(path, tmp_path / "run", *settings, f"data.clean_dirs={place.clean}")
    assert all(record["loss"] > 0 for record in log_of(tmp_path / "run") if "loss" in record)


def shrunk(path: Path) -> tuple[str, str]:
    """Make the model of a recipe small, its own overrides kept."""
    overrides = Recipe.from_file(path).model.overrides
    extractor = SHRUNK_EXTRACTOR | overrides.get("extractor_config", {})
    changed = SHRUNK | overrides | {"extractor_config": extractor}
    return ("model.config=configuration/model/tiny.json", f"model.overrides={json.dumps(changed)}")
