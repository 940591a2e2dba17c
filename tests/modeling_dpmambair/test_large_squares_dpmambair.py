"""Large pictures whose first levels are computed in squares come out as if they had passed whole."""

import pytest
import torch

from modeling_dpmambair import large_pictures_dpmambair, large_strips_dpmambair, restore_tiled
from modeling_dpmambair.large_pictures_dpmambair import bytes_needed, pixels_within
from modeling_dpmambair.large_squares_dpmambair import plan_squares
from tests.modeling_dpmambair.models import pictures, small_model

# Wide enough that squares spare memory.
TWO = {"dim": 8, "scan_directions": 2, "has_linear_resampling": True}
LINEAR = {"dim": 16, "has_film": True, "has_linear_resampling": True, "has_summed_skips": True}


@pytest.fixture
def small_squares(monkeypatch):
    monkeypatch.setattr(large_strips_dpmambair, "CPU_STRIP_NUMBERS", 1)


@pytest.mark.usefixtures("small_squares")
@pytest.mark.parametrize(("level", "changes"), [
    (1, TWO), (2, LINEAR), (3, {}), (1, LINEAR), (3, TWO),
    *(
        pytest.param(*pair, marks=[pytest.mark.ci, pytest.mark.slow])
        for pair in [(1, {}), (2, {}), (2, TWO), (3, LINEAR)]
    ),
], ids=str)  # fmt: skip
def test_squares_restore_as_the_whole_picture(level, changes):
    model, degraded = small_model(first_mixer_level=level, **changes), pictures(2, 131, 70)
    budget = bytes_needed(model, 2 * 131 * 70, has_squares=True)
    steps = []
    with torch.no_grad():
        expected = model(degraded, strength=0.5).reconstruction
        options = {"strength": 0.5, "memory_budget": budget, "progress": lambda *step: steps.append(step)}
        restored = restore_tiled(model, degraded, **options).reconstruction
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-5)
    assert (expected - degraded).abs().max() > 0.05
    count = 2 * 3 * 2 + 1  # squares on the way down, and up; and the picture, which has no tiles
    assert steps == [(done, count) for done in range(1, count + 1)]


@pytest.mark.usefixtures("small_squares")
def test_squares_that_see_less_than_their_convolutions_reach_show_it(monkeypatch):
    model, degraded = small_model(first_mixer_level=2, **LINEAR), pictures(1, 136, 72)
    options = {"memory_budget": bytes_needed(model, 136 * 72, has_squares=True)}
    expected = restore_tiled(model, degraded, **options).reconstruction
    plan = large_pictures_dpmambair.SquareLevels.__init__

    def see_less(self, *arguments):
        plan(self, *arguments)
        self.reach //= 2

    monkeypatch.setattr(large_pictures_dpmambair.SquareLevels, "__init__", see_less)
    assert (restore_tiled(model, degraded, **options).reconstruction - expected).abs().max() > 1e-5


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.usefixtures("small_squares")
def test_tiles_hold_more_of_a_picture_in_squares(monkeypatch):
    model, degraded = small_model(first_mixer_level=2, **LINEAR), pictures(1, 800, 16)
    planned, plan = [], large_pictures_dpmambair.plan_tiles
    monkeypatch.setattr(large_pictures_dpmambair, "plan_tiles", lambda *a: planned.append(a) or plan(*a))
    budget = bytes_needed(model, 400 * 16, has_squares=True)
    assert pixels_within(model, budget) < 400 * 16
    tiled = restore_tiled(model, degraded, memory_budget=budget).reconstruction
    assert planned[0] == (800, 16, (400, 16), 128)
    with torch.no_grad():
        torch.testing.assert_close(tiled, model(degraded).reconstruction, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("height", "width", "count"), [(8, 8, 1), (64, 72, 2), (136, 64, 3)])
def test_squares_cover_a_picture_once_and_see_what_is_around_them(height, width, count):
    x = torch.arange(height * width).view(1, height, width, 1)
    squares, covered = plan_squares(height, width, 64, 8), torch.zeros_like(x)
    assert len(squares) == count
    for square in squares:
        square.of(covered, 0).add_(1)
        seen = square.seen_of(x, 0)
        assert torch.equal(square.own_of(seen, 0), square.of(x, 0))
        halved, own = seen[:, ::4, ::4], square.of(x[:, ::4, ::4], 2)
        assert torch.equal(square.own_of(halved, 2), own)
        around = (slice(max(each.start - 8, 0), min(each.stop + 8, length)) for each, length in (
            (square.rows, height), (square.columns, width)
        ))  # fmt: skip
        rows, columns = around
        assert torch.equal(seen, x[:, rows, columns])
    assert covered.eq(1).all()


@pytest.mark.parametrize("pixels", [1, 1000, 2**15, 2**15 + 1, 10**7])
def test_budget_and_pixels_belong_together(pixels):
    model = small_model(first_mixer_level=2, **LINEAR)
    assert pixels_within(model, bytes_needed(model, pixels, True), True) == pixels
    assert pixels_within(model, bytes_needed(model, pixels, True) - 1, True) == pixels - 1
