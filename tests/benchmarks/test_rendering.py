"""Tables of text and Markdown, read back by their columns."""

import math

import pytest

from benchmarks.rendering import (
    NOT_FINITE,
    RIVAL,
    compare_with_paper,
    describe_machine,
    format_columns,
    format_markdown,
    render_command,
    render_cost,
    render_description,
    render_embedding,
    render_failures,
    render_forward,
    render_losses,
    render_quality,
    render_scan,
)
from dataset_scripts import KINDS
from restoration_metrics.scores import METRICS, summarize

MACHINE = {"cpu": "Model X", "cores": 2, "device": "cpu", "processes": 1, "threads": 2, "torch": "2.15.0"}


def quality_results():
    """What the evaluation writes, its averages made by its own code: picture i of task t gains t + i dB."""
    scores = []
    for number, task in enumerate(KINDS):
        for index in range(2):
            before = {f"{metric}_degraded": 20.0 for metric in METRICS}
            after = {f"{metric}_restored": 20.0 + number + index for metric in METRICS}
            gain = {f"{metric}_gain": float(number + index) for metric in METRICS}
            scores.append({"task": task, "file_index": index, **before, **after, **gain})
    benchmark = {"name": "synthetic7", "severity": 0.5, "seed": 2504, "clean": "photographs", "failures": []}
    model = {"name": "small-one", "parameters": 810_976, "dtype": "float32", "weights_sha256": "0" * 64}
    header = {"benchmark": benchmark, "model": model, "machine": MACHINE, "date": "2026-01-02T03:04:05+00:00"}
    return header | summarize(scores, KINDS)


def markdown_rows(text):
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_text_columns_end_at_one_place():
    lines = format_columns([["name", "n"], ["a", "1.25"], ["longer", "-10.5"]]).splitlines()
    assert lines == ["name        n", "a        1.25", "longer  -10.5"]


def test_markdown_aligns_numbers_to_the_right():
    assert format_markdown([["name", "n"], ["a", "1"]]) == "| name | n |\n|---|---:|\n| a | 1 |"


def test_deviation_is_relative_to_the_paper():
    assert compare_with_paper(31.727e6, 31.43e6, 1e6, 3) == ["31.727", "31.43", "+0.94%"]
    assert compare_with_paper(99.0, 100.0, 1, 1) == ["99.0", "100", "-1.00%"]


def test_what_the_paper_does_not_give_is_a_dash():
    assert compare_with_paper(5e6, None, 1e6, 1) == ["5.0", "-", "-"]


def test_cost_table_has_a_row_for_each_model_and_says_the_size():
    one = {"name": "base", "parameters": 2_000_000, "macs": 3e9, "scan_flops": 1e9, "paper": {"flops": 5e9}}
    text = render_cost({"height": 128, "width": 64, "models": [one, one | {"name": "tiny"}]})
    rows = markdown_rows(text)
    assert rows[2] == ["base", "2.000", "-", "-", "3.00", "1.00", "4.00", "5", "-20.00%"]
    assert [row[0] for row in rows[2:]] == ["base", "tiny"]
    assert "128 x 64 pixels" in text


def test_quality_table_shows_every_task_and_the_whole():
    rows = markdown_rows(render_quality(quality_results()))
    assert [row[0] for row in rows[2:]] == [*(kind.replace("_", " ") for kind in KINDS), "overall"]
    assert rows[2][1:] == ["20.00", "20.50", "+0.50", "20.0000", "20.5000", "+0.5000"]
    assert rows[-1][3] == "+3.50"


def test_quality_table_says_what_was_measured_on_what():
    text = render_quality(quality_results())
    for fact in ("`small-one` (0.81 M", "`synthetic7`: 2 clean pictures of `photographs`,", "severity 0.5, seed 2504"):
        assert fact in text
    assert text.endswith("Measured 2026-01-02 on Model X, 2 cores, 2 threads, torch 2.15.0.")


def test_quality_table_tells_of_unreadable_pictures():
    results = quality_results()
    results["benchmark"]["failures"] = ["broken.png"]
    assert "(1 more were unreadable)" in render_quality(results)


def test_mean_that_is_null_in_strict_json_is_called_not_finite():
    results = quality_results()
    results["overall"]["psnr_restored"] = None
    assert markdown_rows(render_quality(results))[-1][2] == NOT_FINITE
    assert math.isfinite(float(markdown_rows(render_quality(results))[-1][1]))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"device": "cuda"}, "cuda, host Model X, 2 cores, 2 threads, torch 2.15.0"),
        ({"processes": 4, "threads": 1}, "Model X, 2 cores, 4 processes of 1 thread, torch 2.15.0"),
    ],
)
def test_machine_is_described_in_one_line(changes, text):
    assert describe_machine(MACHINE | changes) == text


def test_losses_count_the_pictures_that_became_worse():
    results = quality_results()
    for one in results["images"]:
        one["psnr_gain"] -= 1.0
    rows = markdown_rows(render_losses(results))
    assert rows[2] == ["haze", "2", "1", "-1.00", "-0.50", "+0.00"]
    assert rows[3] == ["rain", "2", "0", "+0.00", "+0.50", "+1.00"]


def test_failures_are_listed_with_what_undamaged_pictures_lose():
    scores = {"psnr_degraded": 30.0, "psnr_restored": 29.5, "psnr_gain": -0.5}
    undamaged = [{"photograph": "a", "psnr_restored": 18.125}, {"photograph": "b", "psnr_restored": None}]
    results = {
        "model": {"name": "small-one"}, "severity": 0.5, "seed": 3, "pictures": 28, "undamaged": undamaged,
        "worst": [{"task": "low_light", "photograph": "coffee", **scores}],
    }  # fmt: skip
    text = render_failures(results)
    assert markdown_rows(text)[2] == ["low light", "coffee", "30.00", "29.50", "-0.50"]
    assert "`small-one` among 28 restorations" in text
    assert text.endswith("a 18.12, b not finite.")


def test_description_table_has_a_row_for_each_kind_and_the_mean():
    scores = {"low_light": 0.5, "mean": 0.75}
    results = {"model": "small-one", "pictures": 68, "clean": "photographs", "seed": 3}
    text = render_description(results | {"accuracy": scores, "spearman": {"low_light": 0.875, "mean": 0.25}})
    assert markdown_rows(text)[2:] == [["low light", "0.500", "0.875"], ["mean", "0.750", "0.250"]]
    assert text.endswith("`small-one` on 68 clean pictures of `photographs`, each spoiled by each kind, seed 3.")


def test_times_and_memories_are_set_over_restormers_in_float32():
    record = {"model": "tiny", "dtype": "float32", "pixels": 256, "seconds": 1.0, "flops": 5e10, "memory": 2**30}
    rival = record | {"model": RIVAL, "seconds": 4.0, "memory": 2**32}
    results = {"records": [record, rival], "ceiling": {"float32": 1e11}, "machine": MACHINE, "repeats": 5}
    text = render_forward(results)
    assert markdown_rows(text)[2][3:8] == ["1.00", "0.25", "1.00", "0.25", "50%"]
    assert "100 GFLOP/s in float32" in text
    assert "Model X, 2 cores" in text


def test_rivals_scans_are_set_over_ours_of_the_same_length():
    ours = {"scan": "ours", "L": 64, "forward": 0.002, "updates": 3e9, "training_forward": 0.004, "backward": 0.01}
    rival = {"scan": "loop", "L": 64, "forward": 0.1, "updates": 6e7}
    results = {"D": 96, "N": 16, "machine": MACHINE, "records": [ours | {"memory": 1.25}, rival]}
    rows = markdown_rows(render_scan(results))
    assert rows[2] == ["ours", "64", "2.00", "1.0", "3.000", "2.50", "1.25"]
    assert rows[3] == ["loop", "64", "100.00", "50.0", "0.060", "-", "-"]


def test_command_is_told_by_picture():
    record = {"width": 2000, "height": 1000, "seconds": 3.21, "memory": 3 * 2**29}
    text = render_command({"model": "small-one", "repeats": 3, "machine": MACHINE, "records": [record]})
    assert markdown_rows(text)[2] == ["2000 x 1000", "2.00", "3.2", "1.50"]
    assert "Medians of 3 runs" in text


def test_embedding_is_told_by_kind_and_set_beside_what_is_wanted():
    scores = {"unchanged": 14.5, "rebuilt": 21.0, "gain": 6.5}
    results = {
        "clean": "some_pictures",
        "pictures": {"training": 90, "test": 7, "side": 256},
        "rebuilding": {"low_light": scores, "mean": scores},
        "probe": {
            name: {"accuracy": {"low_light": 1.0, "mean": mean}} for name, mean in [("drawn", 0.8), ("middle", 0.9)]
        },
        "wanted": {"gain": 5.0, "accuracy": 0.85},
    }
    text = render_embedding(results)
    assert "| low light | 14.50 | 21.00 | +6.50 | 1.000 | 1.000 |" in text
    assert "| verdict | - | - | reached | missed | reached |" in text
    assert "90 pictures of each kind" in text
