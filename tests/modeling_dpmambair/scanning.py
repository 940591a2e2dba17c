"""What the tests of the selective scan share: inputs, an oracle in float64, comparison of results and gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from modeling_dpmambair import ScanPrompts, prompted_selective_scan, scan_backend
from modeling_dpmambair.selective_scan_dpmambair import selective_scan_loop

Tensors = dict[str, torch.Tensor]
SEQUENCES = ("u", "dt", "B", "C")
BACKENDS = ("numba", "chunked", "loop")

# (B, L, D, N): lengths beside the chunks of both implementations (32 and 64), widths beside the vectors of 16.
SHAPES = [(1, 1, 1, 1), (2, 31, 16, 4), (3, 33, 5, 3), (2, 64, 20, 8), (1, 65, 48, 1), (2, 131, 33, 7)]


def make_inputs(shape: tuple[int, int, int, int], seed: int = 0) -> Tensors:
    """Draw inputs of a prompted scan: steps from 1e-4 to 3, decays as Mamba's after some training.

    They are float64 that float32 holds exactly, so that rounding of the inputs is no error of the scan.
    """
    pictures, length, channels, states = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    ladder = torch.arange(1, states + 1, dtype=torch.float64).log()
    inputs = {
        "u": normal(pictures, length, channels),
        "dt": 2 * normal(pictures, length, channels),
        "A": -torch.exp(ladder + 0.3 * normal(channels, states)),
        "B": normal(pictures, length, states),
        "C": normal(pictures, length, states),
        "D": normal(channels),
        "dt_bias": normal(channels) - 2,
        "alpha_delta": torch.exp(0.5 * normal(pictures, channels)),
        "alpha_B": 1 + 0.3 * normal(pictures, states),
        "alpha_C": 1 + 0.3 * normal(pictures, states),
    }
    return {name: each.float().double() for name, each in inputs.items()}


def make_plain_inputs(shape: tuple[int, int, int, int] = (2, 37, 18, 3)) -> tuple[torch.Tensor, ...]:
    """Draw inputs of the scan without prompts, in its argument order, float64."""
    inputs = make_inputs(shape)
    return tuple({**inputs, "dt": F.softplus(inputs["dt"])}[name] for name in ("u", "dt", "A", "B", "C", "D"))


def cast(inputs: Tensors, dtype: torch.dtype, sequences: torch.dtype | None = None) -> Tensors:
    """Return leaves that require gradients, of one dtype, the sequences perhaps of another."""
    dtypes = {name: sequences if sequences and name in SEQUENCES else dtype for name in inputs}
    return {name: each.detach().to(dtypes[name]).requires_grad_() for name, each in inputs.items()}


def run(inputs: Tensors, backend: str, **options: object) -> torch.Tensor:
    """Run the public prompted scan on one implementation."""
    prompts = ScanPrompts(inputs["alpha_delta"], inputs["alpha_B"], inputs["alpha_C"])
    named = {name: inputs[name] for name in ("u", "dt", "A", "B", "C", "D", "dt_bias")}
    with scan_backend(backend):
        return prompted_selective_scan(**named, prompts=prompts, **options)


def run_oracle(inputs: Tensors, is_reversed: bool = False, discretization: str = "euler") -> torch.Tensor:
    """Run Eqs. 8-9 and the recurrence step by step, with the prompts and the reversal written out here."""
    delta = F.softplus(inputs["dt"] + inputs["dt_bias"]) * inputs["alpha_delta"].unsqueeze(1)
    B, C = inputs["B"] * inputs["alpha_B"].unsqueeze(1), inputs["C"] * inputs["alpha_C"].unsqueeze(1)
    sequences = [each.flip(1) if is_reversed else each for each in (inputs["u"], delta, B, C)]
    u, delta, B, C = sequences
    y = selective_scan_loop(u, delta, inputs["A"], B, C, inputs["D"], is_held=discretization == "zoh")
    return y.flip(1) if is_reversed else y


def backpropagate(scan: Callable[[Tensors], torch.Tensor], inputs: Tensors) -> Tensors:
    """Return the result and, by a fixed random direction of it, the gradients of all inputs."""
    y = scan(inputs)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = torch.autograd.grad((y * direction.to(y)).sum(), list(inputs.values()))
    return {"y": y.detach(), **dict(zip(inputs, gradients, strict=True))}


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest deviation over the largest magnitude that is expected."""
    assert value.shape == expected.shape
    expected = expected.double()
    return ((value.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def assert_close(results: Tensors, expected: Tensors, tolerance: float) -> None:
    """Check every result and gradient against its expectation, relative to its largest magnitude."""
    errors = {name: relative_error(results[name], expected[name]) for name in expected}
    assert max(errors.values()) <= tolerance, errors
