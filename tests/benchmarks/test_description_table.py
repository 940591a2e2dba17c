"""The table of `benchmarks.description`, read back by its columns."""

from benchmarks.description_table import render_description
from tests.benchmarks.rows import markdown_rows


def test_description_table_has_a_row_for_each_kind_and_the_mean():
    scores = {"low_light": 0.5, "mean": 0.75}
    results = {"model": {"name": "small-one"}, "pictures": 68, "clean": "photographs", "seed": 3}
    text = render_description(results | {"accuracy": scores, "spearman": {"low_light": 0.875, "mean": 0.25}})
    assert markdown_rows(text)[2:] == [["low light", "0.500", "0.875"], ["mean", "0.750", "0.250"]]
    assert text.endswith("`small-one` on 68 clean pictures of `photographs`, each degraded in each way, seed 3.")
