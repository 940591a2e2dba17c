"""The table of `benchmarks.forward`, read back by its columns."""

from benchmarks.forward_table import RIVAL, render_forward
from tests.benchmarks.rows import MACHINE, markdown_rows


def test_times_and_memories_are_set_over_restormers_in_float32():
    record = {"model": "tiny", "dtype": "float32", "pixels": 256, "seconds": 1.0, "flops": 5e10, "memory": 2**30}
    rival = record | {"model": RIVAL, "seconds": 4.0, "memory": 2**32}
    results = {"records": [record, rival], "ceiling": {"float32": 1e11}, "machine": MACHINE, "repeats": 5}
    text = render_forward(results)
    assert markdown_rows(text)[2][3:8] == ["1.00", "0.25", "1.00", "0.25", "50%"]
    assert "100 GFLOP/s in float32" in text
    assert "Model X, 2 cores" in text
