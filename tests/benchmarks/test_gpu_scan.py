import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("triton")

from benchmarks import gpu_scan  # noqa: E402
from benchmarks.gpu_scan import ScanShape, app, gpu_scan_grid, least_bytes, make_inputs, triton_bytes  # noqa: E402
from modeling_dpmambair import prompted_selective_scan  # noqa: E402

SHAPE = ScanShape(2, 70, 33, 8)


def test_least_bytes_are_those_of_the_sequences_and_their_gradients():
    tensors, kind = make_inputs(SHAPE, torch.bfloat16, "cpu")
    y = prompted_selective_scan(*tensors, **kind)
    u, dt, _, B, C, _ = tensors
    sequences = u.nbytes + dt.nbytes + B.nbytes + C.nbytes
    assert least_bytes(SHAPE, 2) == {"forward": sequences + y.nbytes, "backward": 2 * sequences + y.nbytes}


def test_three_passes_move_the_sequences_again_and_the_states():
    # 70 steps are two chunks, 33 channels two blocks.
    rows, matrix, states = 2 * 70 * 33 * 2, 2 * 70 * 8 * 2 * 2, 2 * 2 * 8 * 33 * 4
    moved = triton_bytes(SHAPE, 2)
    assert moved["forward"] == 5 * rows + 3 * matrix + 4 * states
    assert moved["backward"] == 11 * rows + 5 * matrix + 2 * matrix * 2 + (3 + 32 + 3) * states


def test_rates_are_bytes_over_seconds():
    one = {"size": "small", "dtype": "float32", "scan": "triton", "seconds": {"forward": 0.001, "backward": 0.004}}
    bytes_moved = {
        "least": {"forward": 10**9, "backward": 2 * 10**9},
        "moved": {"forward": 3 * 10**9, "backward": 8e9},
    }
    rows = gpu_scan_grid({"records": [one | bytes_moved]})
    assert rows[1] == ["small", "float32", "triton", "forward", "1.000", "1000", "3000"]
    assert rows[2][3:] == ["backward", "4.000", "500", "2000"]


def test_machine_without_a_gpu_is_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(app)
    assert done.exit_code == 2
    assert "must be a GPU, got none" in done.output


@pytest.mark.gpu
def test_benchmark_runs_on_a_card(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_scan, "SHAPES", {"small": SHAPE})
    done = CliRunner().invoke(app, ["--repeats", "1", "--output", str(tmp_path / "gpu_scan.json")])
    assert done.exit_code == 0, done.output
    assert "triton" in done.output
