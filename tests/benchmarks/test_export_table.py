"""The table of `benchmarks.export`, read back by its columns."""

from benchmarks.export_table import export_grid, render_export

RESULTS = {
    "date": "2026-01-02T03:04:05+00:00",
    "machine": {"cpu": "Abacus", "cores": 2, "device": "cpu", "processes": 1, "threads": 1, "torch": "9.9"},
    "model": {"name": "beads"}, "severity": 0.5, "seed": 7, "pictures": 28,
    "files": [
        {"name": "the model itself", "bytes": 3 * 2**20, "psnr": 25.0, "seconds": {"128": 0.1}},
        {"name": "ONNX", "bytes": 2**21, "psnr": 24.5, "loss": 0.5, "lowest": 41.24, "seconds": {"128": 0.25}},
        {"name": "8 bits", "refused": "must agree to 40 dB, got 12.3"},
    ],
}  # fmt: skip


def test_table_shows_every_file_and_why_one_was_refused():
    heading, model, onnx, refused = export_grid(RESULTS)
    assert heading[-1] == "128 x 128 (s)"
    assert model == ["the model itself", "3.00", "25.00", "-", "-", "0.10"]
    assert onnx == ["ONNX", "2.00", "24.50", "0.500", "41.2", "0.25"]
    assert refused == ["8 bits", "refused", "-", "-", "-", "-"]
    text = render_export(RESULTS)
    assert "8 bits: must agree to 40 dB, got 12.3." in text
    assert "`beads` on 28 pictures: free photographs" in text
