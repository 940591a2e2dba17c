import math

import pytest

from training.progress import Progress


@pytest.mark.parametrize(("loss", "grad_norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_step_that_is_not_finite_is_counted_apart(loss: float, grad_norm: float) -> None:
    progress = Progress()
    assert progress.count(2.0, 3.0)
    assert not progress.count(loss, grad_norm)
    assert (progress.step, progress.skipped, progress.skipped_in_a_row) == (2, 1, 1)
    assert (progress.loss_sum, progress.loss_count, progress.grad_norm) == (2.0, 1, 3.0)
    assert progress.count(2.0, 3.0)
    assert (progress.skipped, progress.skipped_in_a_row) == (1, 0)


def test_mean_loss_starts_anew_each_time_it_is_taken() -> None:
    progress = Progress()
    assert progress.take_mean_loss() is None
    progress.count(2.0, 1.0)
    progress.count(4.0, 1.0)
    assert progress.take_mean_loss() == 3.0
    assert progress.take_mean_loss() is None


def test_best_quality_is_the_highest_number() -> None:
    progress = Progress()
    assert [progress.is_best(quality) for quality in (math.nan, -3.0, -4.0, math.nan, -2.0)] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert progress.best_quality == -2.0
