"""Reproduce a table or figure of the paper (arXiv:2504.17732): `python reproduce.py table3 --data DATA --plan`.

`--scale paper` trains and measures what the paper does, on its corpora; `--scale mini` trains small networks for a few
minutes each, on any photographs. All that runs are the project's own commands, each printed first. What is done is
skipped and what was interrupted goes on: give the same command again. `configuration/reproduce.json` has the rows.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dataset_scripts import CORPORA
from dataset_scripts.pairing import locate_split, pair_by_name
from evaluation.pair_sets import list_names, open_corpora
from evaluation.report import format_markdown
from restoration_metrics.perceptual import find_cached_backbone
from training.checkpoints import has_run
from training.recipe import Recipe

TARGETS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parent / "configuration" / "reproduce.json").read_text(encoding="utf-8")
)
RECIPES = Path("configuration", "train")
EXTRACTOR, RESTORER, MINI_EXTRACTOR = "paper_sets/extractor", "paper_sets/restorer", "mini/reconstruction"
# Clean photographs that the paper degrades by noise and JPEG.
PHOTOGRAPHS = "waterlooed"
# The budget of the mini study: two seeds of Table 3 take some three hours of one core.
STUDY = {"--steps": "1200", "--seeds": "0,1", "--validations": "4"}

Words = list[str]


@dataclass(frozen=True)
class Place:
    """Where things are.

    Attributes:
        data: holds a folder of each corpus's name.
        runs: everything that is trained and measured.
        launcher: Accelerate's configuration file.
        clean: folders of photographs, of the mini study.
        lpips_backbone: safetensors file for the extractor's loss; None for torch's hub cache.
        cores: to share the mini study among, as in "0,1"; empty for one process.
    """

    data: Path
    runs: Path
    launcher: Path
    clean: tuple[Path, ...] = ()
    lpips_backbone: Path | None = None
    cores: str = ""

    @property
    def launch(self) -> Words:
        """How a script is started on all devices."""
        return ["accelerate", "launch", "--config_file", str(self.launcher)]

    def result(self, recipe: str, tests: str) -> Path:
        """Return the results file of a recipe's model on test sets."""
        return self.runs / "results" / re.sub(r"\W+", "_", tests) / f"{Path(recipe).name}.json"


@dataclass(frozen=True)
class Need:
    """Pictures that a command reads.

    Attributes:
        name: of a corpus, or of a test set, as `--corpus` takes it.
        split: "train" or "test".
        found: how many there are; None where the folder is missing or does not look like the corpus.
        published: how many the whole corpus has.
        fault: why they cannot be used; empty where they can.
    """

    name: str
    split: str
    found: int | None
    published: int | None
    fault: str = ""


def list_paper(target: dict[str, Any], place: Place) -> list[Words]:
    """List the commands of a table or figure at the paper's scale.

    Args:
        target: its entry in `TARGETS`.
        place: where things are.
    """
    rows = [row for row in target["rows"] if "recipe" in row]
    trained = {row["recipe"]: row.get("extractor", EXTRACTOR) for row in rows}
    extractors = dict.fromkeys([*target.get("extractors", []), *trained.values()])
    return [
        *(_train(recipe, place, _name_data(recipe, place)) for recipe in extractors),
        *(_train(recipe, place, _name_data(recipe, place), extractor) for recipe, extractor in trained.items()),
        *(_evaluate(row["recipe"], tests, place) for row in rows if (tests := _find_tests(target, row))),
        *(_fill(template, place) for template in target.get("commands", [])),
    ]


def _find_tests(target: dict[str, Any], row: dict[str, Any]) -> str:
    """Return the test sets of a row, as `--corpus` takes them; empty for none."""
    return row.get("tests", target.get("tests", ""))


def list_mini(name: str, place: Place) -> list[Words]:
    """List the commands of a table's mini study.

    Args:
        name: key of `TARGETS`.
        place: where things are.
    """
    candidates: dict[str, list[str]] = {MINI_EXTRACTOR: []}
    for row in TARGETS[name]["rows"]:
        if "candidate" in row:
            candidates.setdefault(row.get("extractor", MINI_EXTRACTOR), []).append(row["candidate"])
    data = [f"data.clean_dirs={','.join(map(str, place.clean))}"]
    table = f"mini_{name}"
    commands = []
    for extractor, names in candidates.items():
        trained, whitened = place.runs / extractor, place.runs / f"{extractor}_whitened"
        whiten = ["python", "-m", "training.whiten", str(trained), *_repeat("--clean", place.clean)]
        commands += [_train(extractor, place, data), [*whiten, "--output", str(whitened)]]
        commands.append(_study(names, whitened, place, table))
    return [*commands, ["python", "-m", "benchmarks.tables", "--show", table, "--results", str(place.runs)]]


def _train(recipe: str, place: Place, data: Sequence[str], extractor: str = "") -> Words:
    """Build the command that trains a recipe, or goes on with it."""
    path, output = RECIPES / f"{recipe}.json", place.runs / recipe
    settings = [*data, *([f"model.extractor={place.runs / extractor / 'extractor'}"] if extractor else [])]
    if place.lpips_backbone is not None and Recipe.from_file(path).model.stage == "extractor":
        settings.append(f"model.lpips_backbone={place.lpips_backbone}")
    words = [*place.launch, "train_accelerate.py", "--config", str(path), "--output", str(output)]
    resume = ["--resume"] if has_run(output) else []
    return [*words, *resume, *_repeat("--set", settings)]


def _name_data(recipe: str, place: Place) -> list[str]:
    """Name the paper's corpora for a recipe that does not name its own, and the folders that hold them."""
    settings = [f"data.corpora_dir={place.data}"]
    own = Recipe.from_file(RECIPES / f"{recipe}.json").data
    if not own.corpora:
        paper = json.loads((RECIPES / f"{RESTORER}.json").read_text(encoding="utf-8"))["data"]
        settings += [f"data.{name}={json.dumps(value)}" for name, value in paper.items()]
    if not own.corpora or "synthetic" in own.weights:
        settings.append(f"data.clean_dirs={place.data / PHOTOGRAPHS}")
    return settings


def _evaluate(recipe: str, tests: str, place: Place) -> Words:
    """Build the command that measures what a recipe has trained."""
    words = [*place.launch, "evaluate_accelerate.py", "--corpus", tests, str(place.data)]
    return [*words, "--model", str(place.runs / recipe), "--output", str(place.result(recipe, tests))]


def _study(names: Sequence[str], extractor: Path, place: Place, table: str) -> Words:
    """Build the command that trains the candidates of a mini study."""
    options = {
        "--candidates": "configuration/mini.json",
        "--recipe": str(RECIPES / f"{MINI_EXTRACTOR}.json"),
        "--extractor": str(extractor),
        "--work": str(place.runs / "mini" / "learning"),
        "--output": str(place.runs / f"{table}.json"),
        **STUDY,
        **({"--cores": place.cores} if place.cores else {}),
    }
    words = ["python", "-m", "benchmarks.learning", *names]
    return [*words, *(word for option in options.items() for word in option), *_repeat("--clean", place.clean)]


def _repeat(option: str, values: Sequence[object]) -> Words:
    return [word for value in values for word in (option, str(value))]


def _fill(template: str, place: Place) -> Words:
    """Put the folders of this machine into a command of `TARGETS`."""
    filled: Words = []
    for word in shlex.split(template):
        above, slash, below = word.partition("/")
        folder = {"DATA": place.data, "RUNS": place.runs}.get(above)
        filled += place.launch if word == "LAUNCH" else [word if folder is None else str(folder / below)]
    return filled


def _option_of(words: Words, option: str) -> str | None:
    """Return the value of an option of a command, or None."""
    return words[words.index(option) + 1] if option in words else None


def read_recipe(words: Words) -> Recipe | None:
    """Return the recipe of a training command with its settings, or None of another command.

    Args:
        words: the command.
    """
    if "train_accelerate.py" not in words:
        return None
    settings = [value for option, value in zip(words, words[1:], strict=False) if option == "--set"]
    return Recipe.from_file(Path(_option_of(words, "--config")), settings)


def _is_done(words: Words) -> bool:
    """Tell whether a command has left what it is for; a study knows by itself which of its networks are trained."""
    output = Path(_option_of(words, "--output") or "")
    return "benchmarks.learning" not in words and (output.is_file() or (output / "model.safetensors").is_file())


def find_needs(words: Words, place: Place) -> Iterator[tuple[str, str]]:
    """Name the corpora that a command reads: training sets by their names, test sets as `--corpus` takes them.

    Args:
        words: the command.
        place: where things are.

    Yields:
        Name and split.
    """
    recipe = read_recipe(words)
    given = [value for option, value in zip(words, words[1:], strict=False) if option in ("--photographs", "--clean")]
    for name in recipe.data.corpora if recipe else []:
        yield name, "train"
    for folder in map(Path, recipe.data.clean_dirs if recipe else given):
        if folder.parent == place.data and folder.name in CORPORA:
            yield folder.name, "train" if "train" in CORPORA[folder.name].splits else "test"
    if tests := _option_of(words, "--corpus"):
        yield from ((name, "test") for name in list_names(tests))


def count(name: str, split: str, place: Place) -> Need:
    """Count pictures by their names; none is opened.

    Args:
        name: of a training corpus, or a test set.
        split: "train" or "test".
        place: where things are.
    """
    parts = [CORPORA[corpus].splits[split] for corpus in name.partition("/")[0].split("+")]
    published = sum(part.count for part in parts)
    try:
        if "+" in name or "/" in name or split == "test" and CORPORA[name].task != "clean":
            (opened,) = open_corpora(name, place.data)
            return Need(name, split, len(opened.entries), opened.published)
        pairs, _ = pair_by_name(locate_split(CORPORA[name], split, place.data / name))
        return Need(name, split, len(pairs), published)
    except OSError:
        source = " and ".join(CORPORA[corpus].source for corpus in name.partition("/")[0].split("+"))
        return Need(name, split, None, published, f"get it from {source}; docs/data.md shows its folders")
    except ValueError as error:
        return Need(name, split, None, published, str(error))


def _find_gaps(commands: Sequence[Words], place: Place) -> list[str]:
    """Find what this machine lacks beside corpora: photographs and the backbone of LPIPS."""
    gaps = [f"{folder}: a folder of clean photographs is missing" for folder in place.clean if not folder.is_dir()]
    networks = {
        recipe.model.lpips_network: recipe.model.lpips_backbone
        for recipe in map(read_recipe, commands)
        if recipe is not None and recipe.model.stage == "extractor"
    }
    for network, backbone in networks.items():
        try:
            found = find_cached_backbone(network) if backbone is None else Path(backbone)
            gaps += [] if found.is_file() else [f"{found}: the backbone of LPIPS, {network}, is missing"]
        except FileNotFoundError as error:
            gaps.append(str(error))
    return gaps


def _describe(words: Words, needs: dict[tuple[str, str], Need], place: Place) -> str:
    """Say how much a command is, in steps and pictures."""
    recipe = read_recipe(words)
    own = [needs[key] for key in dict.fromkeys(find_needs(words, place))]
    limit = int(_option_of(words, "--limit") or sys.maxsize)
    pictures = sum(min(need.found or need.published, limit) for need in own)
    of = f" of {pictures:,} pictures" if own else ""
    if recipe is not None:
        steps = recipe.training.steps
        return f"{steps:,} steps, {recipe.training.count_patches(0, steps):,} patches a process{of}"
    if "benchmarks.learning" in words:
        names, seeds = words[3 : words.index("--candidates")], _option_of(words, "--seeds").split(",")
        return f"{len(names)} networks, {len(seeds)} seeds, {_option_of(words, '--steps')} steps each"
    return f"{pictures:,} pictures" if own else "no pictures of the corpora"


def describe_plan(target: dict[str, Any], commands: Sequence[Words], place: Place) -> tuple[str, list[str]]:
    """Tell what there is to do, and what is missing for it.

    Args:
        target: the table or figure.
        commands: from `list_paper` or `list_mini`.
        place: where things are.

    Returns:
        Lines of text; and what is missing.
    """
    keys = dict.fromkeys(key for words in commands for key in find_needs(words, place))
    needs = {key: count(*key, place) for key in keys}
    waiting = [words for words in commands if not _is_done(words)]
    still = {key for words in waiting for key in find_needs(words, place)}
    faulty = [need for key, need in needs.items() if need.fault and key in still]
    missing = [f"{need.name} ({need.split}): {need.fault}" for need in faulty]
    missing += _find_gaps(waiting, place)
    lines = [target["title"], ""]
    if needs:
        grid = [["corpus in DATA", "split", "pictures", "published"]]
        for need in needs.values():
            grid.append([need.name, need.split, f"{need.found:,}" if need.found else "missing", f"{need.published:,}"])
        lines += [format_markdown(grid), ""]
    for number, words in enumerate(commands, 1):
        state = "done" if _is_done(words) else "to do"
        lines += [f"{number}. {state}: {_describe(words, needs, place)}", f"   {shlex.join(words)}"]
    lines += [f"missing: {one}" for one in missing]
    return "\n".join([*lines, *_list_notes(target)]), missing


def _list_notes(target: dict[str, Any]) -> list[str]:
    """Return what the paper does not say of a table or figure, or we do otherwise, a line each."""
    return [f"note: {note}" for note in target.get("notes", [])]


def run(words: Words) -> int:
    """Run a command and return its exit status; Ctrl-C is left to the command, which saves before it ends.

    Args:
        words: the command.
    """
    started = {"python": [], "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}[words[0]]
    with subprocess.Popen([sys.executable, *started, *words[1:]]) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def run_all(commands: Sequence[Words]) -> None:
    """Run commands one after another, without those that are done.

    Args:
        commands: in their order.

    Raises:
        typer.Exit: one failed, or was stopped.
    """
    for words in commands:
        if _is_done(words):
            continue
        typer.echo(shlex.join(words))
        status = run(words)
        if status or ("--output" in words and "benchmarks.learning" not in words and not _is_done(words)):
            typer.echo("stopped before the end; give the same command again to go on", err=True)
            raise typer.Exit(status or 1)


def compare(target: dict[str, Any], place: Place) -> str:
    """Set our average PSNR beside the paper's, a row each.

    Args:
        target: the table.
        place: where the results files are.

    Returns:
        A Markdown table.
    """
    grid = [["row", "PSNR (dB)", "paper's"]]
    for row in target["rows"]:
        if "recipe" in row and (tests := _find_tests(target, row)):
            results = json.loads(place.result(row["recipe"], tests).read_text(encoding="utf-8"))
            ours = results["overall"][results["model"]["name"]]["psnr"]
            grid.append([row["name"], f"{ours:.2f}", f"{row['psnr']:.2f}"])
    return format_markdown(grid) if len(grid) > 1 else f"see {place.runs / 'results'}"


def list_commands(name: str, scale: str, place: Place) -> list[Words]:
    """List the commands of a table or figure.

    Args:
        name: of the table or figure.
        scale: "paper" or "mini".
        place: where things are.

    Raises:
        typer.BadParameter: there is none of that name, or not at that scale, or the photographs are not named.
    """
    if name not in TARGETS:
        raise typer.BadParameter(
            f"`TABLE_OR_FIGURE` must be one of {', '.join(TARGETS)}, got {name!r}; choose one of them"
        )
    if scale == "paper":
        return list_paper(TARGETS[name], place)
    studied = [one for one, target in TARGETS.items() if any("candidate" in row for row in target["rows"])]
    if name not in studied:
        raise typer.BadParameter(
            f"`--scale mini` must be of one of {', '.join(studied)}, got {name!r}; choose one, or give --scale paper"
        )
    if not place.clean:
        raise typer.BadParameter("`--clean` must name photographs with --scale mini, got none; give --clean DIR")
    return list_mini(name, place)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(metavar="TABLE_OR_FIGURE", help=f"One of {', '.join(TARGETS)}.")],
    scale: Annotated[Literal["paper", "mini"], typer.Option(help="The paper's, or small networks.")] = "paper",
    plan: Annotated[bool, typer.Option("--plan", help="Print what there is to run and what is missing.")] = False,
    data: Annotated[Path, typer.Option(help="Folder that holds a folder of each corpus's name.")] = Path("data"),
    clean: Annotated[list[Path] | None, typer.Option(help="Photographs of the mini study; repeatable.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all that is trained and measured.")] = Path("runs/reproduce"),
    launcher: Annotated[
        Path | None, typer.Option(help="Accelerate's configuration.", show_default="a100_bf16, cpu for mini")
    ] = None,
    lpips_backbone: Annotated[
        Path | None, typer.Option(help="Backbone of the extractor's loss.", show_default="torch's hub cache")
    ] = None,
    cores: Annotated[str, typer.Option(help="Cores that share the mini study, as in 0,1.")] = "",
) -> None:
    """Reproduce a table or figure of the paper, by the project's own commands.

    Exit status 0: all was run, or the plan lacks nothing; 1: a command failed, or the plan lacks something; 2: the run
    cannot begin.
    """
    machine = "a100_bf16" if scale == "paper" else "cpu"
    launcher = launcher or Path("configuration", "accelerate", f"{machine}.yaml")
    place = Place(data, runs, launcher, tuple(clean or ()), lpips_backbone, cores)
    commands = list_commands(name, scale, place)
    text, missing = describe_plan(TARGETS[name], commands, place)
    if plan:
        typer.echo(text)
        raise typer.Exit(1 if missing else 0)
    if missing:
        typer.echo("\n".join(f"missing: {one}" for one in missing), err=True)
        raise typer.Exit(2)
    run_all(commands)
    if scale == "paper":
        typer.echo("\n".join([compare(TARGETS[name], place), *_list_notes(TARGETS[name])]))


if __name__ == "__main__":
    app()
