"""Measure a restorer on test sets: PSNR, SSIM and LPIPS of every picture before and after, beside other methods.

`python evaluate_accelerate.py --corpus rain100l DATA/rain100l --output results.json` measures the shipped weights on a
published corpus; `--pairs` takes folders of pairs, and `--clean` clean pictures that a benchmark degrades here. Under
`accelerate launch` the pictures are shared among the processes, which must see one disk. An interrupted run goes on
when its command is given again, and ends in the same results.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow
import pyarrow.parquet
import typer
from accelerate import Accelerator
from tqdm import tqdm
from transformers.utils import logging

from dpmambair.files import clear_leftovers, hash_files, replacing
from dpmambair.machine import describe_command, describe_machine, read_commit
from dpmambair.shipped import SHIPPED
from evaluation.journal import Journal
from evaluation.measuring import Meter, measure_all
from evaluation.methods import Methods, describe_model, load_peers, load_restorers
from evaluation.pair_sets import Benchmark, PairSet, open_benchmark, open_corpora, open_folders
from evaluation.report import detail_grid, format_markdown, to_latex, to_markdown
from evaluation.summary import flatten, make_strict, summarize
from restoration_metrics import load_lpips
from restoration_metrics.figures import draw_gains
from restoration_metrics.scores import Scorer, compare

ROOT = Path(__file__).resolve().parent
BENCHMARKS = ROOT / "configuration" / "benchmarks.json"


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """Turn errors of what an option names into messages of the command line.

    Args:
        option: its name.
    """
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise typer.BadParameter(f"`{option}`: {error}") from error


def load_benchmark(name: str) -> Benchmark:
    """Read a benchmark's definition.

    Args:
        name: its key in `configuration/benchmarks.json`.

    Raises:
        ValueError: no benchmark has that name, or its definition is wrong.
    """
    definitions = json.loads(BENCHMARKS.read_text(encoding="utf-8"))
    if name not in definitions:
        raise ValueError(
            f"`benchmark` must be one of {', '.join(definitions)}, got {name!r}; "
            "choose one or define it in configuration/benchmarks.json"
        )
    definition = definitions[name]
    return Benchmark(name, **{**definition, "kinds": tuple(definition["kinds"])})


def open_sets(
    corpus: tuple[str, Path] | None,
    pairs: Sequence[Path],
    degraded: Path | None,
    clean: Path | None,
    benchmark: Benchmark | None,
) -> list[PairSet]:
    """Open all that is to be measured; names alone are read.

    Args:
        corpus: names and folder of published corpora.
        pairs: folders that hold `degraded` and `clean`.
        degraded: folder of degraded pictures, whose clean ones are in `clean`.
        clean: folder of clean pictures.
        benchmark: degrades those of `clean`.

    Raises:
        typer.BadParameter: nothing is to be measured, a set has no pairs or a picture without a partner, or two sets
            have one name.
    """
    sets: list[PairSet] = []
    if corpus is not None:
        with blaming("--corpus"):
            sets += open_corpora(*corpus)
    with blaming("--pairs"):
        sets += [open_folders(folder / "degraded", folder / "clean") for folder in pairs]
    with blaming("--clean"):
        if degraded is not None and clean is not None:
            sets.append(open_folders(degraded, clean))
        elif benchmark is not None and clean is not None:
            sets += open_benchmark(benchmark, clean)
    names = [each.name for each in sets]
    if not names or len(set(names)) < len(names):
        raise typer.BadParameter(
            f"test sets must be given, each of another name, got {', '.join(names) or 'none'}; "
            "name them by `--corpus`, `--pairs`, `--degraded` and `--clean`"
        )
    return sets


def describe_run(
    sets: Sequence[PairSet], methods: Methods, scorer: Scorer, lpips: tuple[str, Path] | None, benchmark: Any
) -> dict[str, Any]:
    """Say what the results depend on, for the results file and for a run that goes on.

    Args:
        sets: what is measured.
        methods: what restores.
        scorer: how it is scored.
        lpips: network and backbone of LPIPS, or None.
        benchmark: what the results file says of it, or None.
    """
    return {
        "benchmark": benchmark,
        "model": methods.model,
        "methods": methods.describe(sets),
        "border": scorer.border,
        "lpips": None if lpips is None else {"network": lpips[0], "backbone_sha256": hash_files([lpips[1]])},
    }


def describe_start(accelerator: Accelerator) -> dict[str, Any]:
    """Say when, where and by what a run was begun.

    Args:
        accelerator: knows device and processes.

    Returns:
        `command`, of `describe_command`; `commit`, of `read_commit`; `machine`; and `date`, the day.
    """
    return {
        "command": describe_command(),
        "commit": read_commit(),
        "machine": describe_machine(accelerator.device.type, accelerator.num_processes),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_all(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write all files of a run: single pictures as Parquet, a plot, tables in Markdown and LaTeX, and the summary.

    Args:
        results: the summary.
        rows: what `flatten` returned.
        output: path of the summary, ending in .json; the others have other suffixes.
    """
    with replacing(output.with_suffix(".parquet")) as partial:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), partial)
    model = results["model"]["name"]
    gains = {each["name"]: compare(each["scores"], model)["psnr_gain"] for each in results["sets"]}
    gains["overall"] = compare(results["overall"], model)["psnr_gain"]
    with replacing(output.with_suffix(".png")) as partial:
        draw_gains(gains, "PSNR gain (dB)").savefig(partial, format="png", dpi=150)
    strict = make_strict(dict(results))
    # The summary last: where it is new, the others are too.
    texts = {".md": to_markdown(strict), ".tex": to_latex(strict), ".json": json.dumps(strict, indent=2) + "\n"}
    for suffix, text in texts.items():
        with replacing(output.with_suffix(suffix)) as partial:
            partial.write_text(text, encoding="utf-8")


def run(
    accelerator: Accelerator, sets: Sequence[PairSet], meter: Meter, settings: Mapping[str, Any], output: Path
) -> bool:
    """Measure what an interrupted run has left, and write the results.

    Args:
        accelerator: tells the processes apart.
        sets: what is measured.
        meter: measures.
        settings: of `describe_run`.
        output: JSON file to write; while the run lasts there is a folder beside it, ending in `.partial`.

    Returns:
        Whether every picture could be measured.

    Raises:
        typer.BadParameter: the interrupted run had other settings.
    """
    journal = Journal(output.with_suffix(".partial"))
    listings = {each.name: [each.listing, len(each.entries)] for each in sets}
    if accelerator.is_main_process:
        clear_leftovers([output.parent])
    with blaming("--output"), accelerator.main_process_first():
        journal.begin({**settings, "listings": listings}, describe_start(accelerator))
    done = journal.read()
    accelerator.wait_for_everyone()  # nobody writes before all have read
    work = [(each, entry) for each in sets for entry in each.entries if (each.name, entry.index) not in done]
    share = work[accelerator.process_index :: accelerator.num_processes]
    bar = tqdm(total=len(share), unit="picture", disable=not accelerator.is_main_process)
    with journal.open(accelerator.process_index) as writer, bar as progress:
        failures = measure_all(share, meter, writer.append, progress)
    failed = failures.gather()
    if accelerator.is_main_process:
        records = journal.read()
        if records:
            results = {**settings, **journal.read_facts(), **summarize(sets, records), "failures": failed}
            write_all(results, flatten(sets, records), output)
            typer.echo(format_markdown(detail_grid(make_strict(results))))
        journal.end()
    return not failed


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    output: Annotated[Path, typer.Option(help="JSON file to write; tables, plot and Parquet go beside it.")],
    model: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a trained model, or of one for each corpus under its name.",
            show_default="the shipped one",
        ),
    ] = SHIPPED,
    corpus: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="NAME DIR", help="Published corpora, with commas between; clean ones as NAME/RECIPE."),
    ] = None,
    pairs: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder of `degraded` and `clean`, in equal names.")
    ] = None,
    degraded: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Degraded pictures; `--clean` has those of equal names.")
    ] = None,
    clean: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Clean pictures; alone, a benchmark degrades them.")
    ] = None,
    benchmark: Annotated[str, typer.Option(help="Name in configuration/benchmarks.json.")] = "synthetic7",
    classical: Annotated[bool, typer.Option("--classical", help="Also measure classical restorations.")] = False,
    spandrel: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Also measure a network of others, by its weights.")
    ] = None,
    lpips: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="NETWORK FILE", help="Also measure LPIPS by squeeze, alex or vgg with these weights."),
    ] = None,
    border: Annotated[int, typer.Option(min=0, help="Pixels to cut off each side before scoring.")] = 0,
    pictures: Annotated[Path | None, typer.Option(help="Folder for comparisons of the first pictures.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure only the first so many pictures.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Number format of the model's computation.")
    ] = "float32",
) -> None:
    """Measure a restorer on test sets: PSNR, SSIM and LPIPS, before and after, beside other methods.

    An interrupted run goes on when its command is given again. Exit status 0: all pictures were measured; 1: some
    could not be, each with a line on stderr; 2: work could not begin.
    """
    if output.suffix != ".json":
        raise typer.BadParameter(f"`--output` must end in .json, got {str(output)!r}; rename it")
    if degraded is not None and clean is None:
        raise typer.BadParameter(
            "`--degraded` must come with `--clean`, got no folder; name that of the clean pictures"
        )
    with blaming("--benchmark"):
        definition = load_benchmark(benchmark) if clean is not None and degraded is None else None
    sets = open_sets(corpus, pairs or [], degraded, clean, definition)
    sets = [replace(each, entries=each.entries[:limit]) for each in sets]
    accelerator = Accelerator()
    logging.disable_progress_bar()
    with blaming("--model"):
        restorers = load_restorers(model, sets, accelerator.device, dtype)
        description = describe_model(model, sets, restorers, dtype)
    with blaming("--spandrel"):
        peers = load_peers(spandrel or [], model, accelerator.device)
        weights = {path.stem: hash_files([path]) for path in spandrel or []}
    methods = Methods(description, restorers, peers, weights, classical)
    with blaming("--lpips"):
        scorer = Scorer(border, None if lpips is None else load_lpips(*lpips).to(accelerator.device))
    with blaming("--model"):
        meter = Meter({each.name: methods.list_for(each) for each in sets}, scorer, pictures)
    facts = None if definition is None else {**asdict(definition), "clean": clean.resolve().name}
    try:
        is_whole = run(accelerator, sets, meter, describe_run(sets, methods, scorer, lpips, facts), output)
    except OSError as error:  # a full disk, mostly
        typer.echo(f"stopped: {error}; what is measured is kept; give the same command again to go on", err=True)
        raise typer.Exit(1) from error
    if not is_whole:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
