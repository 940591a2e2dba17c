"""The benchmark of whole restorers: what it builds, counts and writes."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import forward, machine
from benchmarks.files import RESULTS
from modeling_dpmambair import DPMambaIRModel


@pytest.fixture(scope="module")
def light_macs():
    """What `benchmarks.cost` counted of light, at the same size."""
    counts = json.loads((RESULTS / "cost.json").read_text())
    assert (counts["height"], counts["width"]) == (forward.COUNTED_SIDE, forward.COUNTED_SIDE)
    return next(one["macs"] for one in counts["models"] if one["name"] == "light")


@pytest.mark.ci
@pytest.mark.slow
def test_restormer_counts_what_its_paper_says():
    # 154.88 G multiply-accumulates by the count of arXiv:2504.17732v3, Table IV, which the paper gives for 26.13 M.
    rival = forward.build_peer(forward.RIVAL)
    assert sum(parameter.numel() for parameter in rival.network.parameters()) == pytest.approx(26.13e6, rel=0.001)
    assert rival.macs == pytest.approx(154.88e9, rel=0.01)


def test_ours_are_the_family(light_macs):
    side = forward.build_ours("light")
    assert isinstance(side.network, DPMambaIRModel)
    assert side.macs == light_macs


@pytest.mark.ci
@pytest.mark.slow
def test_peers_restore_a_picture_of_the_benchmark():
    side = forward.build_peer("NAFNet-64")
    with torch.inference_mode():
        assert side.network(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_results_say_time_memory_and_share_of_the_ceiling(light_macs, tmp_path, monkeypatch):
    monkeypatch.setitem(machine.CEILING_SIDES, "cpu", 64)
    output = tmp_path / "forward.json"
    arguments = ["--pixels", 16, "--model", "light", "--repeats", 2, "--output", output]
    result = CliRunner().invoke(forward.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    (record,) = [one for one in results["records"] if one["dtype"] == "float32"]
    assert record["flops"] == pytest.approx(2 * light_macs * (16 / 256) ** 2 / record["seconds"])
    assert results["ceiling"]["float32"] > 0
    assert output.with_suffix(".png").is_file()


def test_unknown_side_is_refused():
    result = CliRunner().invoke(forward.app, ["--model", "huge"])
    assert result.exit_code == 2
    assert "`model` must be one of" in " ".join(result.output.split())
