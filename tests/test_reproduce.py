"""Reproducing the paper: plans name what exists and open no picture, runs skip what is done and go on."""

import json
import os
import re
import shlex
import signal
import sys
import threading
from pathlib import Path

import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

import reproduce
from benchmarks.learning_networks import read_candidates
from dataset_scripts import CORPORA
from modeling_dpmambair import DegradationExtractorModel, DPMambaIRConfig
from reproduce import EXTRACTOR, RECIPES, RESTORER, TARGETS, Place, list_commands, read_recipe
from tests.dataset_scripts.miniatures import MINIATURES, build
from tests.documents import ROOT, check_command
from training.recipe import Recipe

MINI = [name for name, target in TARGETS.items() if any("candidate" in row for row in target["rows"])]
BOTH = [(name, scale) for scale, names in (("paper", TARGETS), ("mini", MINI)) for name in names]
CPU = Path("configuration/accelerate/cpu.yaml")


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "backbone.safetensors").touch()
    folders = {name: tmp_path / name for name in ("data", "runs")}
    return Place(
        **folders, launcher=CPU, clean=(tmp_path / "photographs",), lpips_backbone=tmp_path / "backbone.safetensors"
    )


@pytest.fixture
def corpora(place):
    """Miniatures of the paper's corpora, both splits of each beside each other."""
    wanted = {key for name in TARGETS for words in list_commands(name, "paper", place) for key in find(words, place)}
    for corpus in {part for name, _ in wanted for part in name.partition("/")[0].split("+")}:
        for split in CORPORA[corpus].splits:
            begin = "rain100h test (authors')" if (corpus, split) == ("rain100h", "test") else f"{corpus} {split}"
            title = next(title for title in MINIATURES if title.startswith(begin))
            build(place.data / corpus, MINIATURES[title][0])
    return place.data


def find(words, place):
    return list(reproduce.find_needs(words, place))


def run(*words):
    return CliRunner().invoke(reproduce.app, [str(word) for word in words])


def options(place):
    return ["--data", place.data, "--runs", place.runs, "--launcher", CPU, "--lpips-backbone", place.lpips_backbone]


@pytest.mark.parametrize(("name", "scale"), BOTH)
def test_every_command_exists_and_takes_its_options(name, scale, place):
    commands = list_commands(name, scale, place)
    for words in commands:
        check_command(shlex.join(words))
        for corpus, split in find(words, place):
            assert reproduce.count(corpus, split, place).published > 0
    evaluated = [words[words.index("--model") + 1] for words in commands if "--model" in words]
    trained = [words[words.index("--output") + 1] for words in commands if "train_accelerate.py" in words]
    assert set(evaluated) <= set(trained)


@pytest.mark.parametrize("name", MINI)
def test_candidates_of_the_mini_study_exist_and_differ(name):
    known = read_candidates(Path("configuration/mini.json"))
    rows = [(row["candidate"], row.get("extractor")) for row in TARGETS[name]["rows"] if "candidate" in row]
    whole = {(json.dumps(known[candidate].definition, sort_keys=True), extractor) for candidate, extractor in rows}
    assert len(whole) == len(rows) > 1
    assert len({json.dumps(known[candidate].definition["training"]) for candidate, _ in rows}) == 1


def test_every_ablation_and_paper_recipe_is_a_row():
    rows = [row for target in TARGETS.values() for row in target["rows"]]
    named = {row.get(key) for row in rows for key in ("recipe", "extractor")} | {EXTRACTOR}
    folders = ("ablations", "paper_sets", "single_task", "mini")
    found = {f"{folder}/{path.stem}" for folder in folders for path in (RECIPES / folder).glob("*.json")}
    assert found - named == {"mini/reconstruction"}  # the one that all rows of the mini study begin with


def test_rows_differ_in_their_model_alone(place):
    recipes = [recipe for words in list_commands("table3", "paper", place)[1:] if (recipe := read_recipe(words))]
    settings = [f"data.corpora_dir={place.data}", f"data.clean_dirs={place.data / 'waterlooed'}"]
    paper = Recipe.from_file(RECIPES / f"{RESTORER}.json", settings)
    assert len({json.dumps(one.model.overrides) for one in recipes}) == len(recipes) == 8
    assert all((one.data, one.training) == (paper.data, paper.training) for one in recipes)


@pytest.mark.parametrize("name", TARGETS)
def test_plan_counts_pictures_and_opens_none(name, place, corpora, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(PIL.Image, "open", refuse)
    result = run(name, "--plan", *options(place))
    assert result.exit_code == 0, result.output
    assert "missing" not in result.output
    assert "| waterlooed | train | 1 | 4,744 |" in result.output
    assert result.output.count(" to do: ") == len(list_commands(name, "paper", place))


def test_plan_names_what_is_missing(place, corpora):
    (corpora / "gopro").rename(corpora / "elsewhere")
    place.lpips_backbone.unlink()
    result = run("table1", "--plan", *options(place))
    assert result.exit_code == 1
    assert "| gopro | train | missing | 2,103 |" in result.output
    assert f"missing: gopro (test): get it from {CORPORA['gopro'].source}; docs/data.md" in result.output
    assert "backbone.safetensors: the backbone of LPIPS, vgg, is missing" in result.output
    assert "note: The paper does not state the strength of its noise and JPEG" in result.output
    begun = run("table1", *options(place))
    assert begun.exit_code == 2
    assert "missing: gopro (train)" in begun.stderr


def test_plan_names_pictures_without_a_partner(place, corpora):
    (corpora / "lol" / "eval15" / "high" / "1.png").rename(corpora / "lol" / "eval15" / "high" / "7.png")
    result = run("table2", "--plan", *options(place))
    assert result.exit_code == 1
    assert "missing: lol (test): pictures must be in pairs, got 2 that are not" in result.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["table6"], "`TABLE_OR_FIGURE` must be one of table1, table2, .*, got 'table6'; choose one"),
        (["figure6", "--scale", "mini"], "`--scale mini` must be of one of table3, table4, table5, got 'figure6'"),
        (["table3", "--scale", "mini"], "`--clean` must name photographs with --scale mini, got none; give --clean"),
        (["table3", "--scale", "mini", "--clean", "nowhere"], "missing: nowhere: a folder of clean photographs"),
    ],
)
def test_what_cannot_begin_is_refused(words, text):
    result = run(*words)
    assert result.exit_code == 2
    assert re.search(text, " ".join(result.stderr.replace("│", " ").split()))


def finish(words):
    """Leave what a command would leave."""
    if "--output" in words:
        output = Path(words[words.index("--output") + 1])
        (output.parent if output.suffix else output).mkdir(parents=True, exist_ok=True)
        scores = {output.stem: {"psnr": 20 + len(output.stem) / 10}}
        results = {"model": {"name": output.stem}, "overall": scores}
        (output if output.suffix else output / "model.safetensors").write_text(json.dumps(results))
    return 0


def test_interrupted_run_goes_on_and_ends_with_the_papers_figures_beside_ours(place, corpora, monkeypatch):
    started = []

    def stop_at_third(words):
        started.append(words)
        return finish(words) if len(started) != 3 else 130

    monkeypatch.setattr(reproduce, "run", stop_at_third)
    first = run("table5", *options(place))
    assert first.exit_code == 130
    assert "stopped before the end; give the same command again to go on" in first.stderr
    second = run("table5", *options(place))
    assert second.exit_code == 0, second.output
    assert started[3] == started[2]
    assert len(started) == len(list_commands("table5", "paper", place)) + 1
    assert "| two directions | 21.40 | 27.66 |\n| one direction, C prompt | 20.80 | 27.69 |" in second.output
    assert "note: Parameters and operations are counted" in second.output
    plan = run("table5", "--plan", *options(place))
    assert plan.output.count(" done: ") == len(list_commands("table5", "paper", place))


def test_training_that_saved_and_ended_early_stops_the_run(place, corpora, monkeypatch):
    monkeypatch.setattr(reproduce, "run", lambda words: 0)  # as after SIGTERM
    result = run("table1", *options(place))
    assert result.exit_code == 1
    assert "stopped before the end" in result.stderr


def test_unfinished_training_is_resumed(place):
    assert not any("--resume" in words for words in list_commands("table1", "paper", place))
    (place.runs / EXTRACTOR).mkdir(parents=True)
    (place.runs / EXTRACTOR / "log.jsonl").touch()
    first, *others = list_commands("table1", "paper", place)
    assert "--resume" in first
    assert not any("--resume" in words for words in others)


def test_command_runs_with_this_python_and_its_status_counts():
    code = "import sys; sys.exit(0 if sys.executable == sys.argv[1] else 3)"
    assert reproduce.run(["python", "-c", code, sys.executable]) == 0
    assert reproduce.run(["python", "-c", code, "other"]) == 3


@pytest.mark.slow  # Accelerate takes seconds to import
def test_launcher_is_found_and_its_status_counts(tmp_path):
    (tmp_path / "script.py").write_text("import sys; sys.exit(int(sys.argv[1]))")
    for status in (0, 3):
        words = ["accelerate", "launch", "--config_file", str(CPU), str(tmp_path / "script.py"), str(status)]
        assert (reproduce.run(words) != 0) == (status != 0)


@pytest.mark.ci
@pytest.mark.slow
def test_interrupt_is_left_to_the_command():
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    assert reproduce.run(["python", "-c", "import sys, time; time.sleep(2); sys.exit(7)"]) == 7


@pytest.mark.slow  # real processes at the study's own sizes
def test_mini_study_goes_on_and_prints_its_table(place, tmp_path, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    for number in range(24):
        coarse = torch.randint(0, 256, (6, 7, 3), dtype=torch.uint8, generator=rng).numpy()
        picture = PIL.Image.fromarray(coarse).resize((176, 160), PIL.Image.Resampling.BICUBIC)
        picture.save(place.clean[0] / f"{number}.png")
    config = DPMambaIRConfig.from_json_file("configuration/model/tiny.json").extractor_config
    for folder in ("reconstruction", "reconstruction_whitened"):  # as if trained
        DegradationExtractorModel(config).save_pretrained(place.runs / "mini" / folder)
    monkeypatch.setattr(reproduce, "STUDY", {"--steps": "2", "--seeds": "0", "--validations": "1"})
    words = ["table5", "--scale", "mini", "--clean", place.clean[0], *options(place)]
    started, commands = [], reproduce.run

    def stop_before_second(words):
        started.append(words)
        if len(started) > 1:
            return commands(words)
        return commands([word for word in words if word != "all_heb"]) or 130

    monkeypatch.setattr(reproduce, "run", stop_before_second)
    assert run(*words).exit_code == 130
    results = place.runs / "mini_table5.json"
    (first,) = json.loads(results.read_text())["records"]
    assert run(*words).exit_code == 0
    assert [one["candidate"] for one in json.loads(results.read_text())["records"]] == ["all_heb", "two_directions"]
    assert json.loads(results.read_text())["records"][1] == first
    assert first["command"].startswith("python -m benchmarks.learning two_directions --candidates")
    assert str(tmp_path) not in first["command"]
