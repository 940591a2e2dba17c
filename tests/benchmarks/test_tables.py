"""Tables of documents come from results files and nowhere else."""

import hashlib
import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from benchmarks.cost_table import render_cost
from benchmarks.files import RESULTS, write_text
from benchmarks.tables import NOT_MEASURED, TABLES, app, render_document
from dpmambair.shipped import SHIPPED
from tests.sources import ROOT, list_sources

COST = "before\n<!-- table:cost -->\n<!-- /table -->\nafter\n"
QUALITY = "<!-- table:quality -->\nold\n<!-- /table -->\n"


@pytest.fixture
def results(tmp_path):
    """A folder that holds the counts and nothing else."""
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(RESULTS / "cost.json", folder)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def documents_with_tables():
    return [str(path) for path in list_sources("*.md") if "<!-- table:" in (ROOT / path).read_text(encoding="utf-8")]


def test_tables_of_the_repository_are_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    documents = documents_with_tables()
    assert {"README.md", "model_card.md"} <= set(documents)
    result = run(*documents, "--check")
    assert (result.exit_code, result.output) == (0, "")


def test_measured_weights_are_the_shipped_ones():
    weights = SHIPPED.glob("*.safetensors")
    shipped = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(weights))).hexdigest()
    texts = {path.stem: path.read_text(encoding="utf-8") for path in RESULTS.glob("*.json")}
    measured = {name: re.findall(r'"weights_sha256": "(\w+)"', text) for name, text in texts.items()}
    named = {"synthetic7_cbsd68", "composites7_cbsd68", "pairs", "harm", "failures", "steering", "description"}
    named |= {"embedding", "export", "severity"}
    outdated = {name for name in named if shipped not in measured[name]}
    assert outdated == set(), f"measure {SHIPPED.relative_to(ROOT)} again"


def test_block_holds_the_rendered_table_and_its_surroundings_stay(results):
    rendered = render_cost(json.loads((results / "cost.json").read_text()))
    assert render_document(COST, results) == f"before\n<!-- table:cost -->\n{rendered}\n<!-- /table -->\nafter\n"


def test_rendering_twice_changes_nothing(results):
    once = render_document(COST + QUALITY, results)
    assert render_document(once, results) == once


def test_table_without_results_says_so(results):
    assert render_document(QUALITY, results) == f"<!-- table:quality -->\n{NOT_MEASURED}\n<!-- /table -->\n"


def test_document_without_marks_stays(results):
    assert render_document("| a |\n|---|\n", results) == "| a |\n|---|\n"


@pytest.mark.parametrize(
    "text",
    [
        "one\n<!-- table:cost -->\n",
        "one\n<!-- /table -->\n",
        "one\n<!-- table:cost -->\n" + COST,
        "\n<!-- table: x -->",
    ],
)
def test_mark_without_partner_is_refused_with_its_line(results, text):
    with pytest.raises(ValueError, match=r"^marks must be pairs .* got '<!-- .*' alone in line 2; add its partner$"):
        render_document(text, results)


def test_line_of_a_lone_mark_counts_the_blocks_before_it(results):
    with pytest.raises(ValueError, match="alone in line 5;"):
        render_document(COST + "<!-- table:quality -->\n", results)


def test_unknown_table_is_refused(results):
    rule = f"^`table` must be one of {', '.join(sorted(TABLES))}, got 'speed'; correct it$"
    with pytest.raises(ValueError, match=rule):
        render_document("<!-- table:speed -->\n<!-- /table -->", results)


@pytest.mark.parametrize("content", ["{}", "[]", '{"models": [1]}', "no JSON"])
def test_foreign_results_are_refused(results, content):
    (results / "cost.json").write_text(content)
    with pytest.raises(
        ValueError, match="^`cost.json` must hold the results that table 'cost' shows, got .*; run the"
    ):
        render_document(COST, results)


def test_command_renews_documents_and_then_has_nothing_to_do(results, tmp_path):
    document = tmp_path / "text.md"
    document.write_text(COST)
    first = run(document, "--results", results)
    assert (first.exit_code, first.stdout) == (0, f"{document}: tables renewed\n")
    assert "29.352" in document.read_text()
    second = run(document, "--results", results)
    assert (second.exit_code, second.stdout) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"text.md", "results"}


def test_check_tells_stale_documents_and_writes_nothing(results, tmp_path):
    stale, fresh = tmp_path / "stale.md", tmp_path / "fresh.md"
    stale.write_text(COST)
    fresh.write_text(render_document(COST, results))
    result = run(fresh, stale, "--results", results, "--check")
    assert result.exit_code == 1
    assert result.stderr == f"{stale}: its tables are stale; run `python -m benchmarks.tables {stale}`\n"
    assert stale.read_text() == COST


def test_edited_number_is_stale(results, tmp_path):
    document = tmp_path / "text.md"
    document.write_text(render_document(COST, results).replace("29.352", "29.350"))
    assert run(document, "--results", results, "--check").exit_code == 1


def test_faulty_document_is_reported_and_the_others_are_renewed(results, tmp_path):
    document, broken = tmp_path / "text.md", tmp_path / "broken.md"
    document.write_text(COST)
    broken.write_text("<!-- /table -->\n")
    result = run(tmp_path / "missing.md", broken, document, "--results", results)
    assert result.exit_code == 2
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        str(tmp_path / "missing.md"),
        str(broken),
    ]
    assert "29.352" in document.read_text()


def test_failed_writing_leaves_the_old_file_and_nothing_else(monkeypatch, tmp_path):
    path = tmp_path / "file.md"
    path.write_text("old")

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


CARD = "---\nlicense: mit\nlibrary_name: transformers\n---\ntext\n"


def evaluation(weights, value):
    scores = {method: {"psnr": value, "ssim": value} for method in ("degraded", "small")}
    benchmark = {"name": "synthetic7", "severity": 0.5, "seed": 1, "clean": "photographs"}
    model = {"name": "small", "weights_sha256": weights}
    sets = [{"name": "rain", "pairs": 2, "scores": scores}]
    return {"benchmark": benchmark, "model": model, "sets": sets, "overall": scores}


def test_card_gets_the_figures_of_all_evaluations_of_its_weights(results):
    (results / "synthetic7_cbsd68.json").write_text(json.dumps(evaluation("a", 1.0)))
    (results / "others.json").write_text(json.dumps(evaluation("b", 2.0)))
    (results / "more.json").write_text(json.dumps(evaluation("a", 3.0)))
    (results / "list.json").write_text("[1]")
    data = ModelCard(render_document(CARD, results)).data
    assert (data.license, data.model_name) == ("mit", "small")
    assert {entry.metric_value for entry in data.eval_results} == {1.0, 3.0}


def test_card_without_results_has_no_figures(results):
    (results / "synthetic7_cbsd68.json").write_text(json.dumps(evaluation("a", 1.0)))
    measured = render_document(CARD, results)
    (results / "synthetic7_cbsd68.json").unlink()
    assert "model-index" in measured
    assert render_document(measured, results) == CARD


def test_metadata_of_other_documents_stay(results):
    (results / "synthetic7_cbsd68.json").write_text(json.dumps(evaluation("a", 1.0)))
    text = "---\nsdk:   gradio\n---\ntext\n"
    assert render_document(text, results) == text
