"""The plan of tiles: what it covers, and on which grid."""

import itertools
import re

import pytest
import torch

from modeling_dpmambair import plan_tiles

SIZES = [
    (203, 170, (64, 96), 32),
    (64, 1000, (64, 104), 48),
    (401, 9, (40, 16), 16),
    (1, 1, (8, 8), 0),
    (90, 61, (8, 8), 0),
]


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_every_pixel_is_covered_with_weights_that_sum_to_one(height, width, tile, overlap):
    total, inner = [[0.0] * width for _ in range(height)], torch.zeros(height, width)
    for each in plan_tiles(height, width, tile, overlap):
        weights = each.weights.tolist()
        for y, x in itertools.product(
            range(each.rows.start, each.rows.stop), range(each.columns.start, each.columns.stop)
        ):
            total[y][x] += weights[y - each.rows.start][x - each.columns.start]
        assert each.weights.min() >= 0
        inner[each.rows.enter : each.rows.leave, each.columns.enter : each.columns.leave] += 1
    torch.testing.assert_close(torch.tensor(total), torch.ones(height, width), rtol=0, atol=1e-6)
    assert torch.equal(inner, torch.ones(height, width))


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_tiles_lie_on_the_grid_overlap_and_end_at_the_border(height, width, tile, overlap):
    tiles = plan_tiles(height, width, tile, overlap)
    for axis, length, side in (("rows", height, tile[0]), ("columns", width, tile[1])):
        spans = list(dict.fromkeys((s.start, s.stop) for s in (getattr(each, axis) for each in tiles)))
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(start % 8 == 0 and stop - start <= side for start, stop in spans)
        assert all((stop - start) % 8 == 0 for start, stop in spans[:-1])
        assert all(before[1] - after[0] >= overlap for before, after in itertools.pairwise(spans))


def test_tiles_are_no_larger_than_their_number_asks():
    assert [(each.rows.start, each.rows.stop) for each in plan_tiles(1104, 8, (1024, 8), 32)] == [
        (0, 568),
        (536, 1104),
    ]


def test_a_picture_within_one_tile_is_that_tile():
    (tile,) = plan_tiles(13, 9, (16, 16), 32)
    assert torch.equal(tile.weights, torch.ones(13, 9))
    pictures = torch.rand(2, 3, 13, 9)
    assert torch.equal(tile.of(pictures), pictures)


@pytest.mark.parametrize(("tile", "overlap", "message"), [
    ((64, 64), 8, "`overlap` must be a multiple of 16 from 0 up, got 8; 32 is the usual one"),
    ((64, 64), -16, "`overlap` must be a multiple of 16 from 0 up, got -16; 32 is the usual one"),
    ((60, 64), 16, "`tile` must have sides of 32 or more that 8 divides, got 60; enlarge it or lessen the overlap"),
    ((64, 48), 32, "`tile` must have sides of 64 or more that 8 divides, got 48; enlarge it or lessen the overlap"),
    ((64, 0), 0, "`tile` must have sides of 8 or more that 8 divides, got 0; enlarge it or lessen the overlap"),
])  # fmt: skip
def test_impossible_plan_is_an_error(tile, overlap, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_tiles(500, 500, tile, overlap)
