import pytest
import torch
import torch.nn.functional as F

from benchmarks.analysis import compute_step_sizes, count_cost, read_prompts
from modeling_dpmambair.block_dpmambair import PromptedScan
from tests.modeling_dpmambair.models import pictures, small_config, small_model


def test_step_sizes_are_softplus_times_their_prompt():
    scan, x, embedding = PromptedScan(small_config(), 4), torch.randn(2, 3, 5, 4), torch.randn(2, 8)
    for parameter in scan.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    dt = scan.project(x)[1]
    expected = F.softplus(dt + scan.dt_proj.bias) * scan.compute_prompts(embedding).delta[:, None]
    torch.testing.assert_close(compute_step_sizes(scan, x, embedding), expected)


def test_prompts_are_read_from_every_scan_and_leave_no_hook():
    model, degraded = small_model(scan_directions=2), pictures()
    before = model(degraded).reconstruction
    readings = read_prompts(model, degraded)
    assert len(readings) == 16
    embedding = model.extractor(degraded).degradation_embedding
    for name, reading in readings.items():
        for value, expected in zip(reading, model.get_submodule(name).compute_prompts(embedding), strict=False):
            torch.testing.assert_close(value, expected)
        assert all(each.shape == (2,) for each in reading[3:])
        assert (reading.delta_mean > 0).all()
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(degraded).reconstruction, before)


@pytest.mark.ci
@pytest.mark.slow
def test_cost_counts_parameters_and_the_scans_by_their_formula():
    model = small_model({"is_merged": True})
    cost, twice = count_cost(model, 16, 24), count_cost(model, 32, 24)
    assert cost.parameters == sum(each.numel() for each in model.parameters())
    widths = [(384, 4), (96, 8), (24, 16), (6, 32), (24, 16), (96, 8), (384, 8), (384, 8)]
    assert cost.scan_flops == sum(length * (9 * channels * 3 + channels) for length, channels in widths)
    assert twice.scan_flops == 2 * cost.scan_flops
    assert 1.9 * cost.macs < twice.macs <= 2 * cost.macs
