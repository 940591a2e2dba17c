"""The table of `benchmarks.embedding`, read back by its columns."""

from benchmarks.embedding_table import render_embedding


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
