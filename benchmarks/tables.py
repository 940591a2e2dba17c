"""Renew the tables of documents from results files: `python -m benchmarks.tables README.md model_card.md`.

A document marks where a table stands. What lies between the marks is replaced, so nobody types a number:

    <!-- table:cost -->
    <!-- /table -->

In the metadata of a model card the model index is replaced too.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from huggingface_hub import EvalResult, ModelCard

from benchmarks.browser_table import render_browser
from benchmarks.bulk_table import render_bulk
from benchmarks.command_table import render_command
from benchmarks.cost_table import render_cost
from benchmarks.description_table import render_description
from benchmarks.doors_table import render_doors
from benchmarks.embedding_table import render_embedding
from benchmarks.export_table import render_export
from benchmarks.failures_table import render_failures
from benchmarks.files import RESULTS, write_text
from benchmarks.forward_table import render_forward
from benchmarks.harm_table import render_harm
from benchmarks.kernels_table import render_kernels
from benchmarks.large_table import render_large
from benchmarks.learning_table import render_changes, render_learning
from benchmarks.mini_table import render_mini
from benchmarks.pairs_table import render_methods, render_pairs, render_rivals
from benchmarks.quality_table import render_losses, render_quality
from benchmarks.reliability_table import render_reliability
from benchmarks.scan_table import render_scan
from benchmarks.severity_table import render_severity
from benchmarks.steering_table import render_steering
from benchmarks.tiling_table import render_tiling
from benchmarks.training_runs_table import render_training_runs
from restoration_metrics.model_index import is_evaluation, list_eval_results, measured_weights

MARK = re.compile(r"<!-- /?table\b.*?-->")
BLOCK = re.compile(
    rf"(?P<opening><!-- table:(?P<name>\w+) -->\n)(?:(?!{MARK.pattern}).)*(?P<closing><!-- /table -->)", re.DOTALL
)
NOT_MEASURED = "*Not measured yet.*"


@dataclass(frozen=True)
class Table:
    """A table that documents may show.

    Attributes:
        source: file name of its results.
        render: makes Markdown of their content.
    """

    source: str
    render: Callable[[dict[str, Any]], str]


TABLES = {
    "browser": Table("browser.json", render_browser),
    "bulk": Table("bulk.json", render_bulk),
    "command": Table("command.json", render_command),
    "composites": Table("composites7_cbsd68.json", render_quality),
    "cost": Table("cost.json", render_cost),
    "description": Table("description.json", render_description),
    "doors": Table("doors.json", render_doors),
    "embedding": Table("embedding.json", render_embedding),
    "export": Table("export.json", render_export),
    "failures": Table("failures.json", render_failures),
    "forward": Table("forward.json", render_forward),
    "harm": Table("harm.json", render_harm),
    "kernels": Table("kernels.json", render_kernels),
    "large": Table("large.json", render_large),
    "learning": Table("learning.json", render_learning),
    "learning_changes": Table("learning_changes.json", render_changes),
    "losses": Table("synthetic7_cbsd68.json", render_losses),
    "methods": Table("pairs.json", render_methods),
    "mini_table3": Table("mini_table3.json", partial(render_mini, "table3")),
    "mini_table4": Table("mini_table4.json", partial(render_mini, "table4")),
    "mini_table5": Table("mini_table5.json", partial(render_mini, "table5")),
    "pairs": Table("pairs.json", render_pairs),
    "quality": Table("synthetic7_cbsd68.json", render_quality),
    "reliability": Table("reliability.json", render_reliability),
    "rivals": Table("pairs.json", render_rivals),
    "scan": Table("scan.json", render_scan),
    "severity": Table("severity.json", render_severity),
    "steering": Table("steering.json", render_steering),
    "tiling": Table("tiling.json", render_tiling),
    "training_runs": Table("training_runs.json", render_training_runs),
}


def render_table(name: str, results: Path) -> str:
    """Render a table, or a line that says that it is not measured yet.

    Args:
        name: key of `TABLES`.
        results: folder of the results files.

    Raises:
        ValueError: no such table, or a results file that is not what its table expects.
    """
    if name not in TABLES:
        raise ValueError(f"`table` must be one of {', '.join(TABLES)}, got {name!r}; correct it")
    source = results / TABLES[name].source
    if not source.is_file():
        return NOT_MEASURED
    try:
        return TABLES[name].render(json.loads(source.read_text(encoding="utf-8")))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`{source.name}` must hold the results that table {name!r} shows, got {type(error).__name__}: {error}; "
            "run the command that writes it"
        ) from error


def find_evaluations(results: Path) -> list[dict[str, Any]]:
    """Find all evaluations of the weights that table `quality` shows.

    Args:
        results: folder of the results files.

    Returns:
        Their content, in the order of the files' names; empty while there is no such table.
    """
    if not (results / TABLES["quality"].source).is_file():
        return []
    contents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    weights = measured_weights(contents[TABLES["quality"].source])
    return [
        content for content in contents.values() if is_evaluation(content) and measured_weights(content) == weights
    ]


def render_metadata(text: str, results: Path) -> str:
    """Renew the model index of a model card; any other document stays as it is.

    Args:
        text: Markdown.
        results: folder of the results files.
    """
    if not text.startswith("---\n"):
        return text
    card = ModelCard(text)
    if "library_name" not in card.data.to_dict():
        return text
    evaluations = find_evaluations(results)
    entries: list[EvalResult] = [entry for one in evaluations for entry in list_eval_results(one)]
    card.data.eval_results = entries or None
    card.data.model_name = evaluations[0]["model"]["name"] if entries else None
    return str(card)


def render_document(text: str, results: Path) -> str:
    """Render every table that a document marks, and the model index of a card.

    Args:
        text: Markdown.
        results: folder of the results files.

    Returns:
        The text with everything between the marks renewed.

    Raises:
        ValueError: a mark lacks its partner, or a table cannot be rendered.
    """
    # Blocks leave as many lines behind as they had, so that positions still tell the line.
    rest = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    if stray := MARK.search(rest):
        line = rest.count("\n", 0, stray.start()) + 1
        raise ValueError(
            f"marks must be pairs `<!-- table:NAME -->`, `<!-- /table -->` on lines of their own, got {stray[0]!r} "
            f"alone in line {line}; add its partner"
        )

    def renew(block: re.Match[str]) -> str:
        return f"{block['opening']}{render_table(block['name'], results)}\n{block['closing']}"

    return render_metadata(BLOCK.sub(renew, text), results)


def renew_document(path: Path, results: Path, *, check: bool = False) -> bool:
    """Renew the tables of one document.

    Args:
        path: Markdown file; written only if something changes.
        results: folder of the results files.
        check: write nothing.

    Returns:
        Whether the document was stale.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: a mark lacks its partner, or a table cannot be rendered.
    """
    text = path.read_text(encoding="utf-8")
    renewed = render_document(text, results)
    if renewed != text and not check:
        write_text(path, renewed)
    return renewed != text


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    documents: Annotated[
        list[Path] | None, typer.Argument(metavar="[DOCUMENT]...", help="Markdown files with marked tables.")
    ] = None,
    results: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the results files.", show_default="benchmarks/results")
    ] = RESULTS,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit status 1 if a table is stale.")] = False,
    show: Annotated[str | None, typer.Option(metavar="TABLE", help="Print a table by its name.")] = None,
) -> None:
    """Renew the tables of documents from results files.

    Exit status 0: all is well; 1: with --check, a document is stale; 2: a document or a results file is at fault.
    """
    if show is not None:
        try:
            typer.echo(render_table(show, results))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    elif not documents:
        raise typer.BadParameter("`DOCUMENT` must be given, got none; name Markdown files, or a table by --show")
    stale, failed = [], False
    for path in documents or []:
        try:
            if renew_document(path, results, check=check):
                stale.append(path)
        except (OSError, ValueError) as error:
            typer.echo(f"{path}: {error}", err=True)
            failed = True
    for path in stale:
        remedy = f"its tables are stale; run `python -m benchmarks.tables {path}`" if check else "tables renewed"
        typer.echo(f"{path}: {remedy}", err=check)
    if failed or (check and stale):
        raise typer.Exit(2 if failed else 1)


if __name__ == "__main__":
    app()
