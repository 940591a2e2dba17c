"""The table of `benchmarks.browser`, read back by its columns."""

from benchmarks.browser_table import browser_grid, render_browser
from tests.benchmarks.rows import MACHINE, markdown_rows

PICTURES = [
    {"width": 500, "height": 400, "first": 4.04, "again": 2.0, "difference": 1},
    {"width": 2000, "height": 1000, "first": 31.0, "again": 30.0, "difference": 0},
]
VERSIONS = {"chromium": "99.1", "onnxruntime_web": "9.8.7"}
PHONE = {"screen": 390, "isolated": False, "engine": "Abacus", "transfer": 12_340_000, "elsewhere": 0, **VERSIONS}
DESKTOP = {"screen": 1440, "isolated": True, "engine": "Beads", "transfer": 12_340_000, "elsewhere": 3, **VERSIONS}
RESULTS = {
    "date": "2026-01-02T03:04:05+00:00", "machine": MACHINE, "model": "beads", "page": 15_670_000, "repeats": 3,
    "visits": [{**PHONE, "pictures": PICTURES}, {**DESKTOP, "pictures": PICTURES}],
}  # fmt: skip


def test_table_has_a_column_for_each_screen():
    rows = {heading: cells for heading, *cells in browser_grid(RESULTS)}
    assert rows["screen"] == ["390 pixels wide", "1440 pixels wide"]
    assert rows["its host isolates the page"] == ["no", "yes"]
    assert rows["the network runs as"] == ["Abacus", "Beads"]
    assert rows["transfer, weights included (MB)"] == ["12.3", "12.3"]
    assert rows["requests to other hosts"] == ["0", "3"]
    assert rows["500 x 400, first (s)"] == ["4.0", "4.0"]
    assert rows["500 x 400, again, a megapixel (s)"] == ["10.0", "10.0"]
    assert rows["2000 x 1000, again (s)"] == ["30.0", "30.0"]
    assert rows["2000 x 1000, again, a megapixel (s)"] == ["15.0", "15.0"]
    assert rows["500 x 400, greatest difference (levels)"] == ["1", "1"]


def test_document_says_model_versions_and_machine():
    text = render_browser(RESULTS)
    assert len(markdown_rows(text)) == len(browser_grid(RESULTS)) + 1
    said = " ".join(text.split())
    assert "`beads`." in said
    assert "the median of 3 further runs" in said
    assert "All files of the page, with those for WebGPU, are 15.7 MB." in said
    assert "in Chromium 99.1 with onnxruntime-web 9.8.7 on Model X, 2 cores." in said
