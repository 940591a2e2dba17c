"""Tiles against the whole picture. Random weights carry far more across a cut than trained ones."""

import pytest
import torch
import torch.nn.functional as F
from skimage import data

from modeling_dpmambair import DPMambaIRModel, large_pictures_dpmambair, restore_tiled
from modeling_dpmambair.large_pictures_dpmambair import bytes_needed, choose_tile, embed_picture, pixels_within
from tests.modeling_dpmambair.models import pictures, small_model
from tests.restoring import ROOT


@torch.no_grad()
def restore_whole(model, x, **options):
    return model(x, **options).reconstruction


def error(tiled, whole):
    return (tiled - whole).abs().max().item()


@pytest.mark.parametrize("options", [{}, {"strength": 0.5}])
@pytest.mark.parametrize("size", [(1, 1), (13, 7), (24, 16)])
def test_picture_within_the_budget_is_restored_whole_to_the_bit(size, options):
    model, x = small_model(), pictures(2, *size)
    steps = []
    output = restore_tiled(model, x, **options, progress=lambda *step: steps.append(step))
    with torch.no_grad():  # other kernels run where gradients are asked for, and round otherwise
        expected = model(x, **options)
    assert torch.equal(output.reconstruction, expected.reconstruction)
    assert torch.equal(output.degradation_embedding, expected.degradation_embedding)
    assert steps == [(1, 1)]


@pytest.mark.parametrize("options", [{}, {"tile": (64, 16)}])
def test_model_that_returns_tuples_restores_too(options):
    model, x = small_model(has_heb=False), pictures(1, 100, 16)
    expected = restore_tiled(model, x, **options)
    model.config.return_dict = model.extractor.config.return_dict = False
    assert torch.equal(restore_tiled(model, x, **options).reconstruction, expected.reconstruction)


@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@pytest.mark.parametrize("shape", [(2, 400, 24), (1, 403, 20)])
def test_strips_with_context_enough_give_the_whole_pictures_result(shape, discretization):
    # The convolutions reach 70 pixels; the scans reach through all rows, which needs their states handed on.
    model, x = small_model(has_heb=False, discretization=discretization), pictures(*shape)
    whole = restore_whole(model, x)
    assert error(restore_tiled(model, x, tile=(296, 24), overlap=144).reconstruction, whole) < 1e-3
    assert (whole - x).abs().max() > 1


def test_enhancement_around_the_pictures_means_nears_the_whole_pictures_result():
    model, x = small_model(), pictures(1, 400, 24) * torch.linspace(0, 1, 400)[:, None]
    whole = restore_whole(model, x)
    tiled = restore_tiled(model, x, tile=(296, 24), overlap=144).reconstruction
    embedding = embed_picture(model.extractor, x)
    apart = torch.cat([restore_whole(model, half, degradation_embedding=embedding) for half in x.split(200, 2)], 2)
    assert (tiled - whole).std() < 0.2 * (apart - whole).std()


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpmambair-light"])
@pytest.mark.parametrize("size", [(500, 420), (601, 43), (640, 48)])
def test_squares_and_tiles_of_trained_weights_equal_the_whole_picture_at_every_size(monkeypatch, name, size):
    model = DPMambaIRModel.from_pretrained(ROOT / "checkpoints" / name).eval()
    photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None] / 255
    torch.manual_seed(0)
    x = (F.interpolate(photo, size, mode="bilinear") + 0.1 * torch.randn(1, 3, *size)).clamp(0, 1)
    width = size[1] + -size[1] % 8
    planned, plan = [], large_pictures_dpmambair.plan_tiles
    monkeypatch.setattr(large_pictures_dpmambair, "plan_tiles", lambda *a: planned.append(plan(*a)) or planned[-1])
    for rows, is_tiled, allowed in ((size[0], False, 1e-5), (400, True, 1e-4)):
        planned.clear()
        budget = bytes_needed(model, rows * width, has_squares=True)
        restored = restore_tiled(model, x, memory_budget=budget).reconstruction
        assert (len(planned[0]) > 1) == is_tiled
        assert error(restored, restore_whole(model, x)) < allowed


def test_tiles_narrower_than_the_picture_restore_alike():
    model, x = small_model(has_heb=False), pictures(1, 96, 200)
    whole = restore_whole(model, x)
    tiled = restore_tiled(model, x, tile=(96, 136), overlap=64).reconstruction
    assert (tiled - whole).std() < 0.3 * (whole - x).std()


def test_strength_scales_the_correction_of_tiles():
    model, x = small_model(has_heb=False), pictures(1, 100, 16)
    none, half, full = (restore_tiled(model, x, tile=(64, 16), strength=each).reconstruction for each in (0, 0.5, 1))
    torch.testing.assert_close(none, x)
    torch.testing.assert_close(half, (x + full) / 2)


def test_given_embedding_is_that_of_every_tile():
    model, x = small_model(has_heb=False), pictures(1, 100, 16)
    given = 10 * torch.randn(1, 8)
    output = restore_tiled(model, x, tile=(64, 16), degradation_embedding=given)
    assert output.degradation_embedding is given
    assert error(output.reconstruction, restore_tiled(model, x, tile=(64, 16)).reconstruction) > 1e-3


def test_the_model_itself_stays_as_it_is():
    model, x = small_model(), pictures(1, 100, 16)
    before = {name: type(module) for name, module in model.named_modules()}
    restore_tiled(model, x, tile=(64, 16))
    assert {name: type(module) for name, module in model.named_modules()} == before


@pytest.mark.parametrize(("has_heb", "count"), [(True, 8), (False, 3)])
def test_progress_counts_every_pass_over_the_tiles(has_heb, count):
    steps = []
    restore_tiled(
        small_model(has_heb=has_heb), pictures(1, 120, 16), tile=(64, 16), progress=lambda *s: steps.append(s)
    )
    assert steps[:count] == [(done, count) for done in range(1, count + 1)]
    # Random weights need corrections of their means, which are told of when they begin.
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))
    assert len(steps) == count or has_heb


@pytest.mark.parametrize("has_fine_statistics", [False, True])
@pytest.mark.parametrize("size", [(203, 70), (64, 9), (65, 33)])
def test_embedding_by_strips_is_the_whole_pictures(size, has_fine_statistics):
    extractor = small_model({"kernel_sizes": [3, 5, 7], "has_fine_statistics": has_fine_statistics}).extractor
    x = pictures(2, *size)
    with torch.no_grad():
        expected = extractor(x).degradation_embedding
    torch.testing.assert_close(embed_picture(extractor, x, memory_budget=1), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(embed_picture(extractor, x), expected)


@pytest.mark.parametrize("size", [(203, 70), (16, 9), (65, 33)])
def test_embedding_window_by_window_is_the_whole_pictures(monkeypatch, size):
    monkeypatch.setattr(large_pictures_dpmambair, "EMBEDDED_PIXELS", 2000)
    extractor = small_model({"window": 24, "has_fine_statistics": True}).extractor
    x = pictures(2, *size)
    with torch.no_grad():
        expected = extractor(x).degradation_embedding
    torch.testing.assert_close(embed_picture(extractor, x), expected, rtol=1e-5, atol=1e-5)


def test_budget_decides_the_tiles():
    assert choose_tile(3000, 2000, 500_000) == ((248, 2000), 32)
    assert choose_tile(3000, 2000, 768_000) == ((384, 2000), 128)
    assert choose_tile(100, 2001, 10_000_000) == ((104, 2008), 128)
    assert choose_tile(3000, 20_000, 500_000) == ((704, 704), 128)


@pytest.mark.parametrize("pixels", [1, 1000, 2**15, 2**15 + 1, 10**7])
def test_budget_and_pixels_belong_together(pixels):
    model = small_model()
    assert pixels_within(model, bytes_needed(model, pixels)) == pixels
    assert pixels_within(model, bytes_needed(model, pixels) - 1) == pixels - 1


def test_budget_in_bytes_cuts_the_picture(monkeypatch):
    model, x = small_model(has_heb=False), pictures(1, 200, 8)
    planned = []
    plan = large_pictures_dpmambair.plan_tiles
    monkeypatch.setattr(large_pictures_dpmambair, "plan_tiles", lambda *a: planned.append(a) or plan(*a))
    restore_tiled(model, x, memory_budget=bytes_needed(model, 100 * 8))
    assert planned[0] == (200, 8, (96, 8), 32)


def test_budget_below_the_smallest_tile_is_an_error():
    message = "`memory_budget` must suffice for tiles of 256 x 256 pixels, got enough for 0 pixels; raise it"
    with pytest.raises(ValueError, match=message):
        restore_tiled(small_model(), pictures(1, 9, 9), memory_budget=1)


def test_model_without_a_source_of_embeddings_says_so():
    model = small_model(embedding_source="given")
    with pytest.raises(ValueError, match="`degradation_embedding` must be given"):
        restore_tiled(model, pictures(1, 100, 16), tile=(64, 16))
