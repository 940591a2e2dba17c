"""Large pictures that pass through the network in strips come out as if they had passed whole."""

import pytest
import torch

from modeling_dpmambair import large_strips_dpmambair, restore_tiled, scan_backend
from modeling_dpmambair.large_strips_dpmambair import OverwrittenFeatures, Strip, assemble, plan_strips
from tests.modeling_dpmambair.models import pictures, small_model

BOTH_WAYS = {"scan_directions": 2, "discretization": "zoh"}


@pytest.fixture
def narrow_strips(monkeypatch):
    monkeypatch.setattr(large_strips_dpmambair, "CPU_STRIP_NUMBERS", 1)


@pytest.mark.usefixtures("narrow_strips")
@pytest.mark.parametrize(("changes", "backend"), [
    ({}, "numba"), (BOTH_WAYS, "numba"), (BOTH_WAYS, "chunked"),
    ({"insertion": "attention", "prompts": [], "has_heb": False}, "numba"),
    ({"has_linear_resampling": True}, "numba"), ({"d_conv": 5}, "numba"),
    ({"has_film": True, "first_mixer_level": 1, "has_linear_resampling": True, "has_summed_skips": True}, "numba"),
])  # fmt: skip
def test_strips_restore_as_the_whole_picture(changes, backend):
    model, degraded = small_model(**changes), pictures(2, 40, 24)
    with torch.no_grad(), scan_backend(backend):
        expected = model(degraded).reconstruction
        torch.testing.assert_close(restore_tiled(model, degraded).reconstruction, expected, rtol=0, atol=1e-5)
    assert (expected - degraded).abs().max() > 0.1


@pytest.mark.usefixtures("narrow_strips")
def test_strips_restore_in_inference_mode_and_under_autocast():
    model, degraded = small_model(**BOTH_WAYS), pictures(2, 40, 24)
    with torch.no_grad():
        expected = model(degraded).reconstruction
        with torch.autocast("cpu", torch.bfloat16):
            assert (restore_tiled(model, degraded).reconstruction - expected).abs().mean() < 0.02
    with torch.inference_mode():
        torch.testing.assert_close(restore_tiled(model, degraded).reconstruction, expected, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"scan_directions": 2}], ids=str)
def test_strips_on_a_card_restore_as_the_whole_picture(monkeypatch, changes):
    monkeypatch.setattr(large_strips_dpmambair, "STRIP_NUMBERS", 1)
    model, degraded = small_model(**changes).cuda(), pictures(2, 70, 24).cuda()
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        expected = model(degraded).reconstruction
        restored = restore_tiled(model, degraded).reconstruction
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("narrow_strips")
def test_strips_of_one_picture_leave_nothing_for_the_next():
    model = small_model(scan_directions=2)
    first, second = pictures(1, 40, 24), pictures(1, 56, 16)
    expected = restore_tiled(model, second).reconstruction
    restore_tiled(model, first)
    assert torch.equal(restore_tiled(model, second).reconstruction, expected)


@pytest.mark.parametrize(("height", "count"), [(16, 1), (17, 2), (40, 3), (1, 1)])
def test_strips_cover_the_rows_once_and_see_those_around_them(monkeypatch, height, count):
    monkeypatch.setattr(large_strips_dpmambair, "CPU_STRIP_NUMBERS", 2 * 5 * 3 * 16)
    x = torch.arange(height)[None, :, None, None].expand(2, height, 5, 3)
    strips = plan_strips(x, 2)
    assert len(strips) == count
    assert torch.equal(torch.cat([x[:, strip.place] for strip in strips], 1), x)
    for strip in strips:
        assert torch.equal(x[:, strip.seen][:, strip.inner], x[:, strip.place])
        assert x[0, strip.seen, 0, 0].tolist() == list(range(max(strip.start - 2, 0), min(strip.stop + 2, height)))
    assert torch.equal(assemble(strips, lambda strip: x[:, strip.place]), x)


@pytest.mark.usefixtures("narrow_strips")
def test_strips_have_a_least_height():
    assert [strip.place for strip in plan_strips(torch.zeros(1, 40, 6, 3))] == [
        slice(0, 16), slice(16, 32), slice(32, 40)
    ]  # fmt: skip


@pytest.mark.parametrize("reach", [1, 2])
def test_features_show_the_rows_above_as_they_were(reach):
    before = torch.arange(24.0).reshape(1, 6, 2, 2)
    x = before.clone()
    features = OverwrittenFeatures(x, reach)
    for start in (0, 2, 4):
        strip = Strip(start, start + 2, slice(max(start - reach, 0), min(start + 2 + reach, 6)))
        with features.seen_by(strip) as seen:
            assert torch.equal(seen, before[:, strip.seen])
        features.add(strip, torch.full((1, 2, 2, 2), 100.0))
    assert torch.equal(x, before + 100)
