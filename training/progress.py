"""How far a run is."""

import math
from dataclasses import dataclass


@dataclass
class Progress:
    """How far a run is, and the sums since its last log record; part of every checkpoint.

    Attributes:
        step: steps done.
        skipped: steps without an update because loss or gradient was not finite.
        skipped_in_a_row: those at the end.
        loss_sum: sum of the finite losses since the last record.
        loss_count: how many they are.
        grad_norm: length of the last finite gradient before clipping.
        seconds: training time, over all resumptions.
        best_quality: of the best validation so far; None before the first.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    grad_norm: float = 0.0
    seconds: float = 0.0
    best_quality: float | None = None

    def count(self, loss: float, grad_norm: float) -> bool:
        """Count one step.

        Args:
            loss: of its batch.
            grad_norm: before clipping.

        Returns:
            Whether both are finite, so that the weights may follow the gradient.
        """
        self.step += 1
        is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if is_finite:
            self.skipped_in_a_row = 0
            self.loss_sum += loss
            self.loss_count += 1
            self.grad_norm = grad_norm
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
        return is_finite

    def take_mean_loss(self) -> float | None:
        """Return the mean of the finite losses since the last call, None without any, and begin a new sum."""
        mean = self.loss_sum / self.loss_count if self.loss_count else None
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def is_best(self, quality: float) -> bool:
        """Tell whether a validation is the best so far, and remember it if so.

        Args:
            quality: higher is better; one that is no number is never the best.
        """
        is_best = quality > (-math.inf if self.best_quality is None else self.best_quality)
        if is_best:
            self.best_quality = quality
        return is_best
