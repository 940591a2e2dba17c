"""Large pictures that pass through the blocks in strips come out as if they had passed whole."""

import pytest
import torch

from modeling_dpmambair import layers_dpmambair, scan_backend
from modeling_dpmambair.layers_dpmambair import OverwrittenFeatures, Strip
from tests.modeling_dpmambair.models import pictures, small_model


@pytest.mark.parametrize("backend", ["numba", "chunked"])
@pytest.mark.parametrize("changes", [
    {}, {"scan_directions": 2, "discretization": "zoh"}, {"insertion": "attention", "prompts": [], "has_heb": False},
    {"has_linear_resampling": True},
    {"has_film": True, "first_mixer_level": 1, "has_linear_resampling": True, "has_summed_skips": True},
])  # fmt: skip
def test_strips_restore_as_the_whole_picture(monkeypatch, changes, backend):
    model, degraded = small_model(**changes), pictures(2, 70, 24)
    expected = model(degraded).reconstruction.detach()  # with gradients, so at once
    monkeypatch.setattr(layers_dpmambair, "CPU_STRIP_PIXELS", 1)
    with torch.no_grad(), scan_backend(backend):
        torch.testing.assert_close(model(degraded).reconstruction, expected, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert (model(degraded).reconstruction - expected).abs().mean() < 0.02
    assert (expected - degraded).abs().max() > 0.1


def test_prompts_and_cost_are_those_of_the_whole_picture(monkeypatch):
    model, degraded = small_model(scan_directions=2), pictures(2, 70, 24)
    readings, cost = model.degradation_prompts(degraded), model.count_cost(70, 24)
    monkeypatch.setattr(layers_dpmambair, "CPU_STRIP_PIXELS", 1)
    assert model.count_cost(70, 24) == cost
    again = model.degradation_prompts(degraded)
    assert again.keys() == readings.keys()
    for name, expected in readings.items():
        torch.testing.assert_close(again[name], expected, rtol=1e-4, atol=1e-6)


def test_hidden_states_are_those_of_the_whole_picture(monkeypatch):
    model, degraded = small_model(), pictures(1, 70, 24)
    expected = model(degraded, output_hidden_states=True).hidden_states  # with gradients, so at once
    monkeypatch.setattr(layers_dpmambair, "CPU_STRIP_PIXELS", 1)
    with torch.no_grad():
        states = model(degraded, output_hidden_states=True).hidden_states
    assert len(states) == len(expected)
    for state, whole in zip(states, expected, strict=True):
        torch.testing.assert_close(state, whole, rtol=0, atol=1e-5)
    assert (states[-1] - states[-2]).abs().max() > 1e-3  # the refinement changes what it overwrites


def test_features_show_the_row_above_as_it_was():
    x = torch.arange(24.0).reshape(1, 6, 2, 2)
    features, before = OverwrittenFeatures(x.clone()), x
    strips = [Strip(0, 2), Strip(2, 4), Strip(4, 6)]
    for strip in strips:
        assert torch.equal(features.look(strip, torch.clone), before[:, strip.seen])
        features.add(strip, torch.ones(1, 2, 2, 2), torch.tensor([100.0]))
    assert torch.equal(features.x, before + 100)
