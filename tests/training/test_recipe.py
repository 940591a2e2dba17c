import json
from dataclasses import replace
from pathlib import Path

import pytest

from dataset_scripts import CORPORA, KINDS
from training.recipe import Recipe, TrainingRecipe
from training.recipe_files import read_recipe_file
from training.stages import read_config

FOLDER = Path(__file__).parents[2] / "configuration" / "train"
RECIPES = sorted(FOLDER.rglob("*.json"))


def read(tmp_path: Path, content: object, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Recipe.from_file(path, overrides)


def absent_settings(path: Path) -> set[str]:
    """Settings that a recipe leaves to their defaults, except the paths of a machine."""
    content, expected = read_recipe_file(path), Recipe.from_file(path).to_dict(portable=True)
    absent = {name for section in expected for name in expected[section] if name not in content[section]}
    return absent - {"clean_dirs", "extractor", "init_from", "corpora_dir", "lpips_backbone", "lpips_network"}


def test_shipped_recipes_state_every_setting_but_the_paths_of_a_machine() -> None:
    incomplete = {path.relative_to(FOLDER): absent for path in RECIPES if (absent := absent_settings(path))}
    assert RECIPES
    assert incomplete == {}


def differs_in_configuration_only(path: Path) -> bool:
    """Whether an ablation is the paper's recipe of its stage with another configuration."""
    ablation, stage = Recipe.from_file(path), "extractor" if path.stem.endswith("_extractor") else "restorer"
    base = Recipe.from_file(FOLDER / f"{stage}.json")
    is_base = replace(ablation, model=replace(ablation.model, overrides={})) == base
    return is_base and read_config(ablation.model).to_dict() != read_config(base.model).to_dict()


def test_ablations_differ_from_the_paper_recipe_in_their_configuration_only() -> None:
    ablations = sorted(FOLDER.glob("ablations/*.json"))
    assert ablations
    assert [path.name for path in ablations if not differs_in_configuration_only(path)] == []


def test_extending_recipe_changes_single_settings(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text('{"training": {"lr": 0.5, "seed": 7}, "data": {"severity": [0, 1]}}')
    recipe = read(tmp_path, {"extends": "base.json", "training": {"lr": 0.25}}, "training.workers=0")
    assert (recipe.training.lr, recipe.training.seed, recipe.training.workers) == (0.25, 7, 0)
    assert recipe.data.severity == (0, 1)


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"extends": "recipe.json"}')
    with pytest.raises(ValueError, match="`extends` must lead to a recipe without it, got a circle through .*recipe"):
        read(tmp_path, {"extends": "other.json"})


@pytest.mark.parametrize(
    ("name", "steps", "lr", "patch"), [("extractor", 100_000, 1e-4, 256), ("restorer", 300_000, 3e-4, 192)]
)
def test_paper_recipe_has_the_figures_of_section_8(name: str, steps: int, lr: float, patch: int) -> None:
    recipe = Recipe.from_file(FOLDER / f"{name}.json")
    training = recipe.training
    assert recipe.model.stage == name
    assert (training.steps, training.lr, training.final_lr) == (steps, lr, 1e-6)
    assert training.patch_schedule[-1][1] == patch
    # Restormer's progressive training, up to 192 pixels: (patches, side, from step).
    progressive = [(8, 128, 0), (5, 160, 92_000), (4, 192, 156_000)]
    sides = dict(training.patch_schedule)
    phases = [(patches, sides[first], first) for patches, first, _ in training.batch_phases()]
    assert phases == (progressive if name == "restorer" else [(1, 256, 0)])
    assert (training.betas, training.weight_decay) == ((0.9, 0.999), 1e-4)


def test_overrides_reach_their_settings_as_json_text_or_list(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        {"training": {"lr": 0.5}},
        "training.lr=1e-4",
        "training.mixed_precision=no",
        "training.patch_schedule=[[0,16],[5,32]]",
        "data.clean_dirs=first,second",
        "model.extractor=folder",
    )
    assert recipe.training.lr == 1e-4
    assert recipe.training.mixed_precision == "no"
    assert recipe.training.patch_schedule == ((0, 16), (5, 32))
    assert recipe.data.clean_dirs == ("first", "second")
    assert recipe.model.extractor == "folder"


def test_recipe_of_the_papers_sets_gives_each_of_seven_tasks_one_share() -> None:
    for name in ("extractor", "restorer"):
        data = Recipe.from_file(FOLDER / "paper_sets" / f"{name}.json").data
        shares = dict.fromkeys(KINDS, 0.0)
        for corpus in data.corpora:
            shares[CORPORA[corpus].task] += data.weights[corpus]
        for kind in data.kinds:
            shares[kind] += data.weights["synthetic"] / len(data.kinds)
        assert set(shares.values()) == {1}
        assert set(data.weights) == {*data.corpora, "synthetic"}


def test_patches_are_counted_over_changing_batches() -> None:
    training = TrainingRecipe(steps=20, batch_size=((0, 8), (5, 4), (10, 8), (30, 1)), accumulation_steps=2)
    assert training.batch_phases() == [(8, 0, 5), (4, 5, 10), (8, 10, 20)]
    assert training.count_patches(0, 20) == 2 * (40 + 20 + 80)
    assert training.count_patches(4, 11) == 2 * (8 + 20 + 8)


def test_recipe_survives_json(tmp_path: Path) -> None:
    recipe = read(tmp_path, {}, "data.clean_dirs=first,second", "training.patch_schedule=[[0,16],[5,32]]")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_portable_recipe_names_no_local_path(tmp_path: Path) -> None:
    recipe = read(tmp_path, {}, "data.clean_dirs=here", "model.extractor=here", "model.lpips_backbone=here")
    assert "here" not in json.dumps(recipe.to_dict(portable=True))
    assert "here" in json.dumps(recipe.to_dict())


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "training.learning_rate=1",
            "`training.learning_rate` must be one of the recipe's keys .*, lr, .*; correct",
        ),
        ("optimizer.lr=1", "`optimizer` must be one of the recipe's keys data, model, training, got 'optimizer'"),
        ("training.lr", "`--set` must be section.name=VALUE, got 'training.lr'"),
        ("lr=1", "`--set` must be section.name=VALUE, got 'lr=1'"),
        ("training.steps=0", "`training.steps` must be a positive integer, got 0; .*--set training.steps=VALUE"),
        ("training.steps=1.5", "`training.steps` must be a positive integer, got 1.5"),
        ("training.batch_size=0", r"`training.batch_size` must be a positive integer, or a list of .*, got 0"),
        (
            "training.batch_size=[[5,1]]",
            r"`training.batch_size` must be a positive integer, or a list of .*, got \(\(5",
        ),
        ("data.weights=equal", "`data.weights` must be 'balanced', 'natural' or an object .*, got 'equal'"),
        ('data.weights={"lol":0}', "`data.weights` must be 'balanced', 'natural' or an object .*, got {'lol': 0}"),
        ("training.steps=true", "`training.steps` must be a positive integer, got True"),
        ("training.steps=many", "`training.steps` must be a positive integer, got 'many'"),
        ("training.workers=-1", "`training.workers` must be an integer of at least 0, got -1"),
        ("training.lr=-1", "`training.lr` must be a number above 0, got -1"),
        ("training.lr=fast", "`training.lr` must be a number above 0, got 'fast'"),
        ("training.patch_cycle=0", "`training.patch_cycle` must be a positive integer or null, got 0"),
        ("training.lr=1e-7", "`training.final_lr` must be at most `training.lr` 1e-07, got 1e-06"),
        ("training.warmup_steps=300000", "`training.warmup_steps` must be below `training.steps` 300000, got 300000"),
        (
            "training.decay_steps=300001",
            "`training.decay_steps` must be at most the 300000 steps after the warm-up, got 300001; shorten the decay",
        ),
        ("training.decay_steps=0", "`training.decay_steps` must be a positive integer or null, got 0"),
        ("training.optimizer=sgd", "`training.optimizer` must be 'adamw' or 'muon', got 'sgd'"),
        ("training.weight_decay=null", "`training.weight_decay` must be a number of at least 0, got None"),
        ("training.betas=[0.9,1]", r"`training.betas` must be two numbers in \[0, 1\), got \(0.9, 1\)"),
        ("training.betas=0.9", r"`training.betas` must be two numbers in \[0, 1\), got 0.9"),
        ("training.ema_decay=1", r"`training.ema_decay` must be a number in \[0, 1\), got 1"),
        (
            "training.mixed_precision=int8",
            "`training.mixed_precision` must be 'bf16' or 'fp16' or 'no' or null, got 'int8'",
        ),
        ("training.patch_schedule=[]", r"`training.patch_schedule` must be a list of .* from 0 .*, got \(\)"),
        ("training.patch_schedule=[[1,64]]", "`training.patch_schedule` must be .* got"),
        ("training.patch_schedule=[[0,64],[0,96]]", "`training.patch_schedule` must be .* ascending steps"),
        ("training.patch_schedule=[[0,0]]", "`training.patch_schedule` must be .* positive sizes"),
        ("training.patch_schedule=[[0,64,1]]", "`training.patch_schedule` must be .* got"),
        ("data.severity=[0.9,0.1]", r"`data.severity` must be two ascending numbers in \[0, 1\]"),
        ("data.severity=[0,2]", r"`data.severity` must be two ascending numbers in \[0, 1\]"),
        ("data.composite_probability=2", r"`data.composite_probability` must be a number in \[0, 1\], got 2"),
        ("data.identity_probability=-1", r"`data.identity_probability` must be a number in \[0, 1\], got -1"),
        ("data.grey_probability=2", r"`data.grey_probability` must be a number in \[0, 1\], got 2"),
        ("data.file_jpeg_probability=half", r"`data.file_jpeg_probability` must be a number in .*, got 'half'"),
        ("data.scales=[0,1]", r"`data.scales` must be two ascending numbers in .0, 1., got .0, 1."),
        ("data.varied_weather=1", "`data.varied_weather` must be true or false, got 1"),
        ("data.held_out_every=1", "`data.held_out_every` must be an integer of at least 2, got 1"),
        ('data.kinds=["haze","fog"]', r"`data.kinds` must be a list of different kinds out of haze, rain, .*'fog'"),
        ('data.kinds=["haze","haze"]', "`data.kinds` must be a list of different kinds"),
        ('data.kind_weights={"fog":2}', "`data.kind_weights` must be an object with numbers above 0 for some of haze"),
        ('data.kind_weights={"rain":0}', "`data.kind_weights` must be an object with numbers above 0 .*'rain': 0"),
        ("data.clean_dirs=5", "`data.clean_dirs` must be a list of paths, got 5"),
        ("model.stage=both", "`model.stage` must be 'extractor' or 'restorer' or 'describe', got 'both'"),
        ("model.config=", "`model.config` must be a path, got ''"),
        ("model.overrides=5", "`model.overrides` must be an object of settings, got 5"),
        ("training.compile=1", "`training.compile` must be true or false, got 1"),
        ("training.accumulation_steps=0", "`training.accumulation_steps` must be a positive integer, got 0"),
        ("training.trackers=neptune", "`training.trackers` must be a list of different trackers out of tensorboard,"),
        ("data.corpora=bsd400", "`data.corpora` must be a list of different corpora out of reside6k, .*'bsd400'"),
        ("data.unreadable=ignore", "`data.unreadable` must be 'stop' or 'replace', got 'ignore'"),
        ("data.paired_task=fog", "`data.paired_task` must be 'haze' or .* or null, got 'fog'"),
        ("model.extractor=5", "`model.extractor` must be a path or null, got 5"),
    ],
)
def test_wrong_override_is_refused_by_name(tmp_path: Path, override: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read(tmp_path, {}, override)


def test_cycle_that_cuts_its_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`training.patch_cycle` must be above the last step .* 9, got 9; lengthen"):
        read(tmp_path, {}, "training.patch_schedule=[[0,64],[9,96]]", "training.patch_cycle=9")


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`config` must be JSON, got .*recipe.json.* line 1"):
        read(tmp_path, "{")
    with pytest.raises(ValueError, match="`config` must be a JSON object, got .*recipe.json' with list"):
        read(tmp_path, [])
    with pytest.raises(ValueError, match="`training` must be an object of settings, got 5"):
        read(tmp_path, {"training": 5})
    with pytest.raises(FileNotFoundError, match="`config` must be an existing JSON recipe, got .*absent.json"):
        Recipe.from_file(tmp_path / "absent.json")


def test_resuming_refuses_settings_that_shape_the_weights_and_allows_the_others(tmp_path: Path) -> None:
    earlier = read(tmp_path, {})
    read(tmp_path, {}, "training.workers=0", "training.steps=9", "data.clean_dirs=moved").check_resumes(earlier)
    read(tmp_path, {}, "training.decay_steps=9").check_resumes(earlier)
    with pytest.raises(ValueError, match=r"`training.lr` must stay 0.0003 with --resume, got 0.1; .* --output"):
        read(tmp_path, {}, "training.lr=0.1").check_resumes(earlier)


def test_describing_real_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`data.corpora` must be empty in the stage 'describe', got .*lol"):
        read(tmp_path, {}, "model.stage=describe", "data.corpora=lol")
