"""The benchmark of the CPU kernels: what is put in their place computes the same."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import kernels
from benchmarks.kernels_table import render_kernels
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel
from tests.benchmarks.rows import MACHINE, markdown_rows


def test_what_replaces_a_kernel_is_called_and_computes_the_same(monkeypatch):
    model = DPMambaIRModel(DPMambaIRConfig.from_json_file(kernels.MODELS / "light.json")).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    picture, widths, plain_gate = torch.rand(1, 3, 16, 24), set(), kernels.plain_gate
    monkeypatch.setattr(kernels, "plain_gate", lambda x: widths.add(x.shape[-1]) or plain_gate(x))
    expected = kernels.restore_tiled(model, picture).reconstruction
    with kernels.without_both(compiled=False):
        torch.testing.assert_close(
            kernels.restore_tiled(model, picture).reconstruction, expected, rtol=1e-4, atol=1e-4
        )
    assert len(widths) > 1


@pytest.mark.slow
def test_a_run_renews_its_own_machine_and_keeps_the_others(tmp_path, monkeypatch):
    ways = {name: way for name, way in kernels.WAYS.items() if "compile" not in name}
    monkeypatch.setattr(kernels, "WAYS", ways)
    monkeypatch.setattr(kernels, "SIDES", {"light": 16})
    monkeypatch.setattr(kernels, "PATCHES", {"light": 16})
    other = {"machine": MACHINE | {"instructions": "none"}, "models": {"light": {"step": dict.fromkeys(ways, 1.0)}}}
    output = tmp_path / "kernels.json"
    output.write_text(json.dumps([other]))
    result = CliRunner().invoke(kernels.app, ["--rounds", "1", "--output", str(output)])
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    assert other in found
    (own,) = (each for each in found if each != other)
    assert set(own["models"]["light"]) == {"restoration", "step"}
    assert own["models"]["light"]["step"].keys() == ways.keys()


def test_table_sets_the_time_without_a_kernel_over_the_time_with_all():
    times = {"nothing": 2.0, "selective scan": 2.1, "GELU gate": 1.9}
    results = [{"machine": MACHINE | {"instructions": "AVX2"}, "models": {"light": {"step": times}}}]
    assert markdown_rows(render_kernels(results))[2:] == [
        ["selective scan", "+5%"],
        ["GELU gate", "-5%"],
        ["seconds with all", "2.000"],
    ]
