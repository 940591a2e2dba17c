"""The tables of `evaluate_accelerate.py`, read back by their columns."""

import math

from benchmarks.quality_table import render_losses, render_quality
from benchmarks.rendering import NOT_FINITE
from dataset_scripts import KINDS
from evaluation.pair_sets import Entry, PairSet
from evaluation.summary import summarize
from tests.benchmarks.rows import MACHINE, markdown_rows


def pair_set(name, gains):
    """A set of the results whose pictures gain so much, its averages made by the evaluation's own code."""
    entries = tuple(Entry(index, f"{index}.png", None) for index in range(len(gains)))
    return PairSet(name, name, "photographs", None, "", entries)


def record(name, index, gain):
    before, after = ({"psnr": 20.0 + value, "ssim": 20.0 + value} for value in (0, gain))
    return {"set": name, "index": index, "size": (32, 40), "scores": {"degraded": before, "small-one": after}}


def quality_results(shift=0.0, tasks=KINDS):
    """What the evaluation writes: picture i of task t gains t + i + shift dB."""
    gains = {task: [number + index + shift for index in range(2)] for number, task in enumerate(tasks)}
    records = {(task, index): record(task, index, gain) for task in tasks for index, gain in enumerate(gains[task])}
    return {
        "benchmark": {"name": "synthetic7", "severity": 0.5, "seed": 2504, "clean": "photographs"},
        "model": {"name": "small-one", "parameters": 810_976, "dtype": "float32", "weights_sha256": "0" * 64},
        "methods": {},
        "machine": MACHINE,
        "date": "2026-01-02",
        **summarize([pair_set(task, gains[task]) for task in tasks], records),
        "failures": {},
    }


def test_quality_table_shows_every_task_and_the_whole():
    rows = markdown_rows(render_quality(quality_results()))
    assert [row[0] for row in rows[2:]] == [*(kind.replace("_", " ") for kind in KINDS), "overall"]
    assert rows[2][1:] == ["20.00", "20.50", "+0.50", "20.0000", "20.5000", "+0.5000"]
    assert rows[-1][3] == "+3.50"


def test_composites_are_rows_like_single_kinds():
    rows = markdown_rows(render_quality(quality_results(tasks=("haze+rain", "low_light+jpeg+noise"))))
    assert [row[0] for row in rows[2:]] == ["haze + rain", "low light + jpeg + noise", "overall"]
    assert [row[3] for row in rows[2:]] == ["+0.50", "+1.50", "+1.00"]


def test_best_classical_method_of_each_task_is_shown_where_some_ran():
    results = quality_results(tasks=("haze", "noise"))
    results["methods"] = {"dark channel": "15 x 15", "BM3D": "np", "non-local means": "5 x 5", "peer": "weights 0123"}
    haze, noise = (each["scores"] for each in results["sets"])
    haze |= {"dark channel": {"psnr": 19.0, "ssim": 0.5}, "peer": {"psnr": 30.0, "ssim": 0.5}}
    noise |= {"non-local means": {"psnr": 24.0, "ssim": 0.5}, "BM3D": {"psnr": 25.0, "ssim": 0.4}}
    text = render_quality(results)
    assert [row[-1] for row in markdown_rows(text)] == [
        *("best classical PSNR", "---:", "19.00 (dark channel)", "25.00 (BM3D)", "-")
    ]
    assert "Classical methods are told the degradation." in text


def test_no_classical_column_where_none_ran():
    results = quality_results() | {"methods": {"peer": "weights 0123"}}
    assert "lassical" not in render_quality(results)


def test_quality_table_says_what_was_measured_on_what():
    text = render_quality(quality_results())
    for fact in ("`small-one` (0.81 M", "`synthetic7`: 2 clean pictures of `photographs`,", "severity 0.5, seed 2504"):
        assert fact in text
    assert text.endswith("Measured 2026-01-02 on Model X, 2 cores, 2 threads, torch 2.15.0.")


def test_quality_table_tells_of_unreadable_pictures():
    results = quality_results()
    results["failures"] = {"haze": ["broken.png"], "rain": ["broken.png"]}
    assert "(1 more were unreadable)" in render_quality(results)


def test_mean_that_is_null_in_strict_json_is_called_not_finite():
    results = quality_results()
    results["overall"]["small-one"]["psnr"] = None
    assert markdown_rows(render_quality(results))[-1][2] == NOT_FINITE
    assert math.isfinite(float(markdown_rows(render_quality(results))[-1][1]))


def test_losses_count_the_pictures_that_became_worse():
    rows = markdown_rows(render_losses(quality_results(shift=-1.0)))
    assert rows[2] == ["haze", "2", "1", "-1.00", "-0.50", "+0.00"]
    assert rows[3] == ["rain", "2", "0", "+0.00", "+0.50", "+1.00"]
