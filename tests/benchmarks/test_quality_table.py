"""The tables of `evaluate_accelerate.py`, read back by their columns."""

import math

from benchmarks.quality_table import render_losses, render_quality
from benchmarks.rendering import NOT_FINITE
from dataset_scripts import KINDS
from restoration_metrics.scores import METRICS, summarize
from tests.benchmarks.rows import MACHINE, markdown_rows


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


def test_losses_count_the_pictures_that_became_worse():
    results = quality_results()
    for one in results["images"]:
        one["psnr_gain"] -= 1.0
    rows = markdown_rows(render_losses(results))
    assert rows[2] == ["haze", "2", "1", "-1.00", "-0.50", "+0.00"]
    assert rows[3] == ["rain", "2", "0", "+0.00", "+0.50", "+1.00"]
