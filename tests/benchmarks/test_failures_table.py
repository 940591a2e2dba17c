"""The table of `benchmarks.failures`, read back by its columns."""

from benchmarks.failures_table import render_failures
from tests.benchmarks.rows import markdown_rows


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
