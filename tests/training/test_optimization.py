import math

import pytest
import torch
from torch import nn

from training.optimization import average_weights, build_optimizer, build_schedule
from training.recipe import TrainingRecipe


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.A_log = nn.Parameter(torch.zeros(3, 4))
        self.D = nn.Parameter(torch.ones(3))


def test_only_trained_matrices_decay_and_frozen_parameters_are_left_out() -> None:
    layer = Layer()
    decayed, kept = build_optimizer(layer, TrainingRecipe(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0
    assert [id(p) for p in decayed["params"]] == [id(layer.linear.weight)]
    expected = [layer.linear.bias, layer.norm.weight, layer.norm.bias, layer.A_log, layer.D]
    assert {id(p) for p in kept["params"]} == set(map(id, expected))


def test_learning_rate_warms_up_linearly_and_ends_at_the_final_rate_after_a_cosine() -> None:
    training = TrainingRecipe(steps=20, warmup_steps=4, lr=1.0, final_lr=0.1)
    optimizer = build_optimizer(nn.Linear(1, 1), training)
    schedule = build_schedule(optimizer, training)
    rates = []
    for _ in range(training.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 16)) / 2 for i in range(1, 17)]
    torch.testing.assert_close(rates, [0.25, 0.5, 0.75, 1.0, *cosine])


def test_averaged_weights_follow_the_recurrence_with_a_growing_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged = average_weights(model, decay=0.3)
    expected = None
    for step, value in enumerate([1.0, 5.0, -2.0, 7.0, 0.5]):
        nn.init.constant_(model.weight, value)
        averaged.update_parameters(model)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert averaged.module.weight.item() == pytest.approx(expected)
