"""The mini study beside the paper's rows, from made-up results."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.mini_table import mini_grid, render_mini
from benchmarks.tables import app
from tests.benchmarks.rows import MACHINE, markdown_rows


def make_record(candidate, seed, mean, steps=1200):
    return {
        "candidate": candidate,
        "seed": seed,
        "budget": {"unit": "steps", "amount": steps},
        "definition": {"training": {"batch_size": 4, "patch_schedule": [[0, 96]]}},
        "mean": mean,
        "gain": {"low_light": mean + 1, "noise": mean - 1},
        "trained": 524_288,
        "macs": 41_070.0,
        "step_seconds": 0.25,
        "commit": "c" * 40,
        "machine": MACHINE,
    }


RESULTS = {
    "records": [
        make_record("baseline", 0, 1.0),
        make_record("baseline", 1, 2.0),
        make_record("all_heb", 0, 1.5),
        make_record("all_heb", 1, 2.3),
    ]
}


def test_rows_are_the_papers_and_differences_are_taken_seed_by_seed():
    rows = markdown_rows(render_mini("table3", RESULTS))
    assert rows[0][5:] == ["gain (dB)", "over baseline", "paper's PSNR", "over baseline", "low light", "noise"]
    assert rows[2] == [
        "baseline", "0.524", "41.1", "0.250", "2", "+1.50 ± 0.50", "-", "26.96", "+0.00", "+2.50", "+0.50",
    ]  # fmt: skip
    assert rows[3] == ["HEB", *["-"] * 6, "27.25", "+0.29", "-", "-"]  # not run yet
    assert rows[-1][:1] + rows[-1][4:9] == [
        "Delta + B + C + HEB", "2", "+1.90 ± 0.40", "+0.40 ± 0.10", "27.69", "+0.73",
    ]  # fmt: skip


def test_conditions_tell_budget_commit_and_machine():
    text = render_mini("table3", RESULTS)
    assert "1200 steps of 4 patches of 96 x 96 pixels" in text
    assert "By `python reproduce.py table3 --scale mini`, commit cccccccccc, on Model X, 2 cores, 2 threads" in text


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (make_record("tiny", 0, 1.0), "candidates must be rows of table3, got 'tiny'; add it to reproduce.json"),
        (make_record("heb", 0, 1.0, steps=7), "runs must have one budget, got several; remove those of the other"),
    ],
)
def test_runs_that_do_not_belong_are_refused(record, text):
    with pytest.raises(ValueError, match=text):
        mini_grid("table3", {"records": [*RESULTS["records"], record]})


def test_table_is_printed_by_its_name(tmp_path):
    (tmp_path / "mini_table3.json").write_text(json.dumps(RESULTS))
    result = CliRunner().invoke(app, ["--show", "mini_table3", "--results", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, render_mini("table3", RESULTS) + "\n")
    absent = CliRunner().invoke(app, ["--show", "mini_table4", "--results", str(tmp_path)])
    assert (absent.exit_code, absent.stdout) == (0, "*Not measured yet.*\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [(["--show", "mini_table9"], "`table` must be one of"), ([], "`DOCUMENT` must be given, got none")],
)
def test_command_without_table_or_document_is_refused(words, text):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.replace("│", " ").split())
