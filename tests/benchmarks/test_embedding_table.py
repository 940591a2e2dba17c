"""The table of `benchmarks.embedding`, read back by its columns."""

from benchmarks.embedding_table import render_embedding

SCORES = {"unchanged": 14.5, "rebuilt": 21.0, "gain": 6.5}
RESULTS = {
    "model": {"name": "some-model"},
    "clean": "some_pictures",
    "pictures": {"training": 90, "test": 7, "side": 256},
    "rebuilding": {"low_light": SCORES, "mean": SCORES},
    "probe": {
        name: {"accuracy": {"low_light": 1.0, "mean": mean}} for name, mean in [("drawn", 0.8), ("middle", 0.9)]
    },
    "wanted": {"gain": 5.0, "accuracy": 0.85},
}


def test_embedding_is_told_by_kind_and_set_beside_what_is_wanted():
    text = render_embedding(RESULTS)
    assert "| low light | 14.50 | 21.00 | +6.50 | 1.000 | 1.000 |" in text
    assert "| verdict | - | - | reached | missed | reached |" in text
    assert "90 pictures of each kind" in text


def test_extractor_without_the_unit_that_rebuilds_is_probed_alone():
    text = render_embedding(RESULTS | {"rebuilding": None})
    assert "| low light | 1.000 | 1.000 |" in text
    assert "| wanted | 0.850 | 0.850 |" in text
    assert "| verdict | missed | reached |" in text
    assert "PSNR" not in text
