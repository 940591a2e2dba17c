import pytest
import torch
import torch.nn.functional as F

from modeling_dpmambair import layers_dpmambair
from modeling_dpmambair.cpu_rows_dpmambair import (
    depthwise_gate_operator,
    depthwise_silu_operator,
    gated_layer_norm_cpu,
    gated_layer_norm_operator,
    gelu_gate_cpu,
    gelu_gate_operator,
    layer_norm_cpu,
    layer_norm_operator,
)
from modeling_dpmambair.layers_dpmambair import DepthwiseConv2d, GatedNorm, RowNorm, gelu_gate
from tests.modeling_dpmambair.derivatives import (
    assert_refuses_forward_mode,
    assert_refuses_second_order,
    gradients_of_func,
)

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
        norm: (layer_norm_operator, (EPS, dtype)), gated_norm: (gated_layer_norm_operator, (EPS,)),
        gelu_gate_cpu: (gelu_gate_operator, ()),
    }[ours]  # fmt: skip
    torch.library.opcheck(operator, (*tensors, *extra))


@every_operator
def test_functional_gradients_are_those_of_autograd(ours, torchs, shapes):
    tensors, direction = make_tensors(shapes(9, 32)), torch.randn(9, 32)
    _, *expected = backpropagate(ours, tensors, direction)
    assert all(map(torch.equal, gradients_of_func(ours, tensors, direction), expected))


@every_operator
@pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning"
)  # torch maps over our operators by a loop
def test_functional_gradients_of_each_of_several_pictures_are_those_of_autograd(ours, torchs, shapes):
    tensors, direction = make_tensors(shapes(9, 32)), torch.randn(2, 9, 32)
    each = torch.func.vmap(lambda each: gradients_of_func(ours, tensors, each))(direction)
    expected = [backpropagate(ours, tensors, one)[1:] for one in direction]
    assert all(torch.equal(both[i], one[k]) for i, one in enumerate(expected) for k, both in enumerate(each))


@every_operator
def test_derivatives_that_the_kernels_lack_are_an_error(ours, torchs, shapes):
    tensors = make_tensors(shapes(3, 16))
    assert_refuses_forward_mode(ours, tensors)
    assert_refuses_second_order(ours, tensors)


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


# Depthwise convolutions

# (B, H, W): one pixel, one line either way, odd sizes.
every_picture = pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 5), (1, 6, 1), (2, 7, 9), (2, 9, 40)], ids=str)
both_ways = pytest.mark.parametrize("way", ["silu", "gate"])


def make_convolution(way, width):
    """A layer with weights of its own, 32-bit, whose output has `width` channels."""
    conv = DepthwiseConv2d(width * (1 + (way == "gate")), 3, bias=way == "silu")
    for each in conv.parameters():
        torch.nn.init.normal_(each)
    return conv


def convolve_with_torch(conv, way, x):
    convolved = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=1, groups=len(conv.weight))
    convolved = convolved.permute(0, 2, 3, 1)
    return F.silu(convolved) if way == "silu" else torchs_gelu_gate(convolved)


def run_exactly(conv, way, x):
    exact = DepthwiseConv2d(conv.in_channels, 3, bias=conv.bias is not None).double()
    exact.load_state_dict(conv.state_dict())
    return convolve_with_torch(exact, way, x.double())


@both_ways
@every_picture
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-8)], ids=str)
def test_depthwise_convolution_is_torchs_in_float64(way, size, dtype, tolerance):
    conv = make_convolution(way, 48)
    x = torch.randn(*size, conv.in_channels).to(dtype)
    with torch.no_grad():
        result, exact = getattr(conv, way)(x), run_exactly(conv, way, x)
    assert result.dtype == dtype
    assert (result - exact).abs().max() <= tolerance * exact.abs().max()


@both_ways
@pytest.mark.parametrize("width", [16, 20])
@pytest.mark.parametrize("has_gradients", [True, False])
def test_depthwise_convolution_without_its_kernel_is_the_same(monkeypatch, way, width, has_gradients):
    def refuse(*_):
        raise AssertionError("the kernel ran")

    if has_gradients:
        monkeypatch.setattr(layers_dpmambair, f"depthwise_{way}_cpu", refuse)
    conv = make_convolution(way, width)
    x = torch.randn(2, 5, 6, conv.in_channels)
    with torch.set_grad_enabled(has_gradients):
        result = getattr(conv, way)(x)
    torch.testing.assert_close(result.double(), run_exactly(conv, way, x), rtol=1e-5, atol=1e-5, check_dtype=False)


@both_ways
def test_threads_change_no_bit_of_a_depthwise_convolution(way):
    conv, before, results = make_convolution(way, 16), torch.get_num_threads(), []
    x = torch.randn(2, 31, 40, conv.in_channels)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.no_grad():
                results.append(getattr(conv, way)(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@both_ways
def test_depthwise_operators_pass_torchs_own_check(way):
    conv = make_convolution(way, 16)
    x = torch.randn(2, 5, 6, conv.in_channels)
    weights = [each.detach() for each in conv.parameters()]
    operator = {"silu": depthwise_silu_operator, "gate": depthwise_gate_operator}[way]
    torch.library.opcheck(operator, (x, *weights))


@both_ways
def test_forward_mode_of_a_depthwise_convolution_is_an_error(way):
    conv = make_convolution(way, 16)
    with torch.no_grad():  # where the kernel runs; forward mode does not mind
        assert_refuses_forward_mode(getattr(conv, way), [torch.randn(2, 5, 6, conv.in_channels)])
