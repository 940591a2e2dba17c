import pytest
import torch
import torch.nn.functional as F

from modeling_dpmambair import layers_dpmambair
from modeling_dpmambair.layers_dpmambair import GatedNorm, RowNorm, gelu_gate
from modeling_dpmambair.rows_cpu_dpmambair import gated_layer_norm_cpu, gelu_gate_cpu, layer_norm_cpu

EPS = 1e-6
# (R, C): few rows and rows enough for several threads, one vector and several.
every_shape = pytest.mark.parametrize("shape", [(1, 16), (7, 48), (300, 32)], ids=str)


def norm(x, weight, bias):
    return layer_norm_cpu(x, weight, bias, EPS, x.dtype)


def torchs_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def gated_norm(x, gate, weight, bias):
    return gated_layer_norm_cpu(x, gate, weight, bias, EPS)


def torchs_gated_norm(x, gate, weight, bias):
    return torchs_norm(x, weight, bias) * F.silu(gate)


def torchs_gelu_gate(x):
    gate, value = x.chunk(2, -1)
    return F.gelu(gate) * value


OPERATORS = {
    "norm": (norm, torchs_norm, lambda rows, width: [(rows, width), (width,), (width,)]),
    "gated norm": (gated_norm, torchs_gated_norm, lambda rows, width: [(rows, width)] * 2 + [(width,)] * 2),
    "gelu gate": (gelu_gate_cpu, torchs_gelu_gate, lambda rows, width: [(rows, 2 * width)]),
}
every_operator = pytest.mark.parametrize(("ours", "torchs", "shapes"), OPERATORS.values(), ids=OPERATORS.keys())


def make_tensors(shapes, dtype=torch.float32):
    """Rows of the dtype, with a mean and a spread of their own, and float32 weights."""
    rows = [(2 * torch.randn(shape) + 1).to(dtype) for shape in shapes if len(shape) == 2]
    return [each.requires_grad_() for each in (*rows, *(torch.randn(shape) for shape in shapes if len(shape) == 1))]


def backpropagate(function, tensors, direction):
    result = function(*tensors)
    return result, *torch.autograd.grad(result, tensors, direction.to(result.dtype))


@every_operator
@every_shape
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-7)], ids=str)
def test_result_and_gradients_are_torchs_in_float64(ours, torchs, shapes, shape, dtype, tolerance):
    tensors = make_tensors(shapes(*shape), dtype)
    exact = [each.detach().double().requires_grad_() for each in tensors]
    direction = torch.randn(shape).bfloat16()
    results = backpropagate(ours, tensors, direction)
    assert [each.dtype for each in results] == [dtype, *(each.dtype for each in tensors)]
    for value, expected in zip(results, backpropagate(torchs, exact, direction), strict=True):
        assert (value - expected).abs().max() <= tolerance * expected.abs().max()


@every_operator
def test_slices_of_wider_rows_give_the_result_of_dense_rows(ours, torchs, shapes):
    tensors = make_tensors(shapes(9, 32))
    direction = torch.randn(9, 32)
    expected = backpropagate(ours, tensors, direction)
    sliced = [F.pad(each.detach(), (8, 24))[..., 8:-24].requires_grad_() for each in tensors]
    for value, other in zip(backpropagate(ours, sliced, direction), expected, strict=True):
        assert torch.equal(value, other)


@every_operator
def test_threads_change_only_the_order_of_sums(ours, torchs, shapes):
    tensors, direction, before = make_tensors(shapes(700, 32)), torch.randn(700, 32), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(backpropagate(ours, tensors, direction))
    finally:
        torch.set_num_threads(before)
    for one, two, tensor in zip(*results, [tensors[0], *tensors], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-4 if tensor.dim() == 1 else 0)


@every_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_operators_pass_torchs_own_check(ours, torchs, shapes, dtype):
    tensors = make_tensors(shapes(3, 16), dtype)
    operator, extra = {
        norm: (layer_norm_cpu, (EPS, dtype)), gated_norm: (gated_layer_norm_cpu, (EPS,)), gelu_gate_cpu: (ours, ()),
    }[ours]  # fmt: skip
    torch.library.opcheck(operator, (*tensors, *extra))


@pytest.mark.parametrize("width", [16, 20])
@pytest.mark.parametrize("has_kernels", [True, False])
def test_layers_are_torchs_with_and_without_kernels(monkeypatch, width, has_kernels):
    if not has_kernels:
        monkeypatch.setattr(layers_dpmambair, "layer_norm_cpu", None)
    x, gate = torch.randn(2, 3, 5, width), torch.randn(2, 3, 5, width)
    row, gated = RowNorm(width, eps=EPS), GatedNorm(width, eps=EPS)
    for each in (row, gated):
        torch.nn.init.normal_(each.weight)
        torch.nn.init.normal_(each.bias)
    torch.testing.assert_close(row(x), torchs_norm(x, row.weight, row.bias))
    torch.testing.assert_close(gated(x, gate), torchs_norm(x, gated.weight, gated.bias) * F.silu(gate))
    both = torch.cat([x, gate], -1)
    torch.testing.assert_close(gelu_gate(both), F.gelu(x) * gate)
    strided = x.transpose(1, 2)
    torch.testing.assert_close(row(strided), torchs_norm(strided, row.weight, row.bias))
