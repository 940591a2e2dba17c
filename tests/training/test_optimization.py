import math

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import AdamW, Muon

from modeling_dpmambair import DPMambaIRModel
from tests.modeling_dpmambair.models import small_config
from training.optimization import (
    average_weights,
    build_optimizer,
    build_schedule,
    clip_parts,
    find_trained_parts,
    gather_parameters,
    orthogonalize,
    restore_rate,
)
from training.recipe import TrainingRecipe


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.A_log = nn.Parameter(torch.zeros(3, 4))
        self.D = nn.Parameter(torch.ones(3))


def rates_of(training: TrainingRecipe) -> list[float]:
    """The learning rate of every step of a run."""
    optimizer = build_optimizer(nn.Linear(1, 1), training)
    schedule = build_schedule(optimizer, training)
    rates = []
    for _ in range(training.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


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
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 16)) / 2 for i in range(1, 17)]
    torch.testing.assert_close(rates_of(training), [0.25, 0.5, 0.75, 1.0, *cosine])


def test_rate_stays_and_then_falls_by_the_root_of_the_share_that_is_done() -> None:
    training = TrainingRecipe(steps=10, warmup_steps=2, decay_steps=4, lr=1.0, final_lr=0.1)
    shares = [1 - 0.9 * math.sqrt(share) for share in (0.25, 0.5, 0.75, 1.0)]
    torch.testing.assert_close(rates_of(training), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, *shares])


def test_longer_run_has_the_rates_of_a_shorter_one_until_the_decay() -> None:
    short, long = (TrainingRecipe(steps=steps, warmup_steps=2, decay_steps=4) for steps in (10, 20))
    assert rates_of(long)[:6] == rates_of(short)[:6] != rates_of(short)[4:]
    assert rates_of(long)[-4:] == rates_of(short)[-4:]


@pytest.mark.parametrize("decay_steps", [None, 4])
def test_loaded_schedule_takes_the_rate_of_its_new_length(decay_steps: int | None) -> None:
    before = TrainingRecipe(steps=20, decay_steps=decay_steps)
    optimizer = build_optimizer(nn.Linear(1, 1), before)
    schedule = build_schedule(optimizer, before)
    for _ in range(8):
        optimizer.step()
        schedule.step()
    now = TrainingRecipe(steps=10, decay_steps=decay_steps)
    resumed = build_optimizer(nn.Linear(1, 1), now)
    resumed_schedule = build_schedule(resumed, now)
    resumed.load_state_dict(optimizer.state_dict())
    resumed_schedule.load_state_dict(schedule.state_dict())
    restore_rate(resumed_schedule)
    assert [group["lr"] for group in resumed.param_groups] == [rates_of(now)[8]] * 2


# Muon


def test_muon_takes_hidden_matrices_and_kernels_and_adamw_the_rest() -> None:
    model = DPMambaIRModel(small_config())
    hidden, *others = build_optimizer(model, TrainingRecipe(optimizer="muon", weight_decay=0.1)).param_groups
    names = {p: name for name, p in model.named_parameters()}
    kinds = {names[p].split(".blocks.")[-1].partition(".")[2] for p in hidden["params"] if ".blocks." in names[p]}
    assert {"mixer.in_proj.weight", "mixer.out_proj.weight", "ffn.in_proj.weight"} <= kinds
    assert not [kind for kind in kinds if "prompts" in kind or "dt_proj" in kind or ".conv." in kind]
    assert {name for name in map(names.get, hidden["params"]) if name.startswith("network.down")}
    left = {names[p] for group in others for p in group["params"]}
    assert {"network.conv_in.weight", "network.conv_out.weight"} <= left
    assert len(left) + len(hidden["params"]) == sum(p.requires_grad for p in model.parameters())
    assert [hidden["weight_decay"], *(group["weight_decay"] for group in others)] == [0.1, 0.1, 0.0]


def test_orthogonalized_matrix_keeps_its_directions_and_has_singular_values_near_one() -> None:
    matrix = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    for each in (matrix, matrix.T):
        left, _, right = torch.linalg.svd(each, full_matrices=False)
        values = left.T @ orthogonalize(each) @ right.T
        assert ((values.diag() > 0.65) & (values.diag() < 1.25)).all()
        torch.testing.assert_close(values, values.diag().diag(), rtol=0, atol=1e-4)


def test_matrices_take_the_steps_of_torchs_muon_and_biases_those_of_adamw() -> None:
    training = TrainingRecipe(optimizer="muon", lr=0.01, weight_decay=0.1)
    ours, theirs = (nn.Linear(6, 10) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, training)
    references = [
        Muon([theirs.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        AdamW([theirs.bias], lr=0.01, weight_decay=0.0),
    ]
    start = ours.weight.detach().clone()
    for _ in range(5):
        x = torch.randn(4, 6)
        for model, optimizers in ((ours, [optimizer]), (theirs, references)):
            model(x).square().sum().backward()
            for each in optimizers:
                each.step()
            model.zero_grad()
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-2, atol=1e-3)
    error = (ours.weight - theirs.weight).norm() / (theirs.weight - start).norm()
    assert error < 0.05  # torch's multiplies in bfloat16


def test_kernel_takes_the_steps_of_its_matrix() -> None:
    training = TrainingRecipe(optimizer="muon", lr=0.01)
    kernel, matrix = nn.Conv2d(4, 6, 3, bias=False), nn.Linear(36, 6, bias=False)
    matrix.weight.data.copy_(kernel.weight.detach().flatten(1))
    optimizers = [build_optimizer(each, training) for each in (kernel, matrix)]
    for _ in range(3):
        gradient = torch.randn(6, 4, 3, 3)
        kernel.weight.grad, matrix.weight.grad = gradient, gradient.flatten(1)
        for each in optimizers:
            each.step()
    torch.testing.assert_close(kernel.weight.flatten(1), matrix.weight)


def test_fp16s_scaler_skips_what_is_not_finite() -> None:
    layer = nn.Linear(3, 2)
    start = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer, scaler = build_optimizer(layer, TrainingRecipe(optimizer="muon")), torch.amp.GradScaler("cpu")
    for factor in (torch.inf, 1.0):
        assert all(map(torch.equal, start, layer.parameters()))
        optimizer.zero_grad()
        scaler.scale(factor * layer(torch.ones(1, 3)).sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert not any(map(torch.equal, start, layer.parameters()))


def test_closure_is_run_once_and_its_loss_returned() -> None:
    layer, calls = nn.Linear(3, 2), []

    def closure() -> torch.Tensor:
        calls.append(layer(torch.ones(1, 3)).sum())
        calls[-1].backward()
        return calls[-1]

    assert build_optimizer(layer, TrainingRecipe(optimizer="muon")).step(closure) is calls[0]
    assert len(calls) == 1


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


def test_a_parts_long_gradient_leaves_that_of_the_others_as_it_is() -> None:
    model = nn.ModuleDict({name: nn.Linear(4, 1, bias=False) for name in ("extractor", "frozen", "network")})
    model["frozen"].requires_grad_(False)
    model["extractor"].weight.grad = torch.tensor([[6.0, 8.0, 0.0, 0.0]])
    model["network"].weight.grad = torch.tensor([[0.0, 0.3, 0.4, 0.0]])
    norm = clip_parts(find_trained_parts(model), 1.0)
    assert norm.item() == pytest.approx(math.hypot(10, 0.5))
    assert model["extractor"].weight.grad.norm().item() == pytest.approx(1, rel=1e-4)
    assert model["network"].weight.grad.norm().item() == pytest.approx(0.5)


@pytest.fixture
def mesh(tmp_path):
    """A mesh of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_average_of_sharded_weights_has_the_buffers_too(mesh):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    averaged = average_weights(model, decay=0.5)
    fully_shard(model, mesh=mesh)
    with torch.no_grad():
        model(torch.randn(8, 3))
    model.reshard()  # as the backward pass does
    averaged.update_parameters(gather_parameters(model))
    assert model[1].running_mean.any()
    for name, buffer in model.named_buffers():
        assert torch.equal(averaged.module.get_buffer(name), buffer)
