"""Large pictures whose features at full resolution the memory does not hold: those levels square by square.

Of the levels above the first scan a pixel sees only its neighbours. They take most of the memory, and are computed
twice in place of being kept: once to go down to the first scan, and again to come back up from it. Below it the
picture passes whole, so the result is that of the whole picture.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from .large_strips_dpmambair import strip_numbers
from .layers_dpmambair import LinearDownsample
from .modeling_dpmambair import HALVINGS, SIZE_MULTIPLE, DPMambaIRNetwork

# Side that squares have at least, pixels, because each computes those around it too.
LEAST_SIDE = 64


class Square(NamedTuple):
    """A part of a picture that is computed at once.

    Attributes:
        rows: of the picture.
        columns: likewise.
        seen_rows: rows that must be seen for it.
        seen_columns: likewise.
    """

    rows: slice
    columns: slice
    seen_rows: slice
    seen_columns: slice

    def of(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Cut its own part out of features (B, H, W, C) of the picture that were halved `level` times."""
        return x[:, _halve(self.rows, level), _halve(self.columns, level)]

    def seen_of(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Cut out what it sees."""
        return x[:, _halve(self.seen_rows, level), _halve(self.seen_columns, level)]

    def own_of(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Cut its own part out of features of what it sees."""
        own = zip((self.rows, self.columns), (self.seen_rows, self.seen_columns), strict=True)
        rows, columns = (slice(each.start - seen.start, each.stop - seen.start) for each, seen in own)
        return x[:, _halve(rows, level), _halve(columns, level)]


def _halve(place: slice, level: int) -> slice:
    return slice(place.start >> level, place.stop >> level)


def plan_squares(height: int, width: int, side: int, reach: int) -> list[Square]:
    """Cover a picture with squares.

    Args:
        height: of the picture, pixels.
        width: likewise.
        side: of the squares.
        reach: pixels that each must see on every side.
    """
    rows, columns = (
        [
            (slice(start, stop), slice(max(start - reach, 0), min(stop + reach, length)))
            for start, stop in itertools.pairwise([*range(0, length, side), length])
        ]
        for length in (height, width)
    )
    return [Square(down[0], across[0], down[1], across[1]) for down in rows for across in columns]


class SquareLevels(nn.Module):
    """A network without gradients whose levels above the first scan are computed in squares.

    Args:
        network: on whose weights it runs.
        first_mixer_level: level of the first scan, from 1.

    Attributes:
        advance: called after each square, on the way down and on the way up.
        only_measures: whether the way up is left out, as what enhancements see lies below it; corrections are then 0.
    """

    def __init__(self, network: DPMambaIRNetwork, first_mixer_level: int) -> None:
        super().__init__()
        self.network, self.level = network, first_mixer_level
        self.advance: Callable[[], None] = lambda: None
        self.only_measures = False
        # On each level the decoder's and the encoder's convolution, and those of resampling: one pixel of it each.
        convolutions = 2 if isinstance(network.down[0], LinearDownsample) else 4
        self.reach = convolutions << first_mixer_level

    def forward(self, x: torch.Tensor, embedding: torch.Tensor, hidden_states: None = None) -> torch.Tensor:
        """Compute the correction of a picture, as the network does, (B, H, W, 3)."""
        network, level = self.network, self.level
        above, below = range(level), range(level, HALVINGS)
        embedding = embedding.to(network.conv_in.weight.dtype).expand(len(x), -1)
        squares, entering = self.plan(*x.shape[:3]), None
        for square in squares:
            found = network.encode(square.seen_of(x, 0), embedding, above)[-1]
            if entering is None:
                entering = found.new_empty(len(x), x.shape[1] >> level, x.shape[2] >> level, found.shape[-1])
            square.of(entering, level).copy_(square.own_of(found, level))
            self.advance()
        features = network.encode(entering, embedding, below)
        del entering  # the last name of what the strips overwrite
        features.append(network.latent(features.pop(), embedding))
        returning, correction = network.decode(features, embedding, below), None
        if self.only_measures:
            return x.new_zeros(()).expand(x.shape)
        for square in squares:
            *features, _ = network.encode(square.seen_of(x, 0), embedding, above)
            found = network.decode([*features, square.seen_of(returning, level)], embedding, above)
            if correction is None:
                correction = found.new_empty(x.shape)
            square.of(correction, 0).copy_(square.own_of(found, 0))
            self.advance()
        return correction

    def plan(self, batch: int, height: int, width: int) -> list[Square]:
        """Plan the squares of so many pictures of a height and width, multiples of 8."""
        weight = self.network.conv_out.weight
        numbers = strip_numbers(weight.device) // (batch * weight.shape[1])
        side = (math.isqrt(numbers) - 2 * self.reach) // SIZE_MULTIPLE * SIZE_MULTIPLE
        return plan_squares(height, width, max(side, LEAST_SIDE), self.reach)
