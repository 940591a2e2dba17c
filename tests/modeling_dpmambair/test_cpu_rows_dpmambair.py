import pytest
import torch
import torch.nn.functional as F

from modeling_dpmambair import layers_dpmambair
from modeling_dpmambair.cpu_rows_dpmambair import (
    depthwise_gate_operator,
    depthwise_silu_operator,
    gelu_gate_cpu,
    gelu_gate_operator,
)
from modeling_dpmambair.layers_dpmambair import DepthwiseConv2d, gelu_gate
from tests.modeling_dpmambair.derivatives import (
    assert_refuses_forward_mode,
    assert_refuses_second_order,
    gradients_of_func,
)

# (R, C): few rows and rows enough for several threads, one vector and several.
every_shape = pytest.mark.parametrize("shape", [(1, 16), (7, 48), (300, 32)], ids=str)


def torchs_gelu_gate(x):
    gate, value = x.chunk(2, -1)
    return F.gelu(gate) * value


def make_rows(shape, dtype=torch.float32):
    """The two halves of rows (R, 2 C) for a result (R, C)."""
    return (2 * torch.randn(shape[0], 2 * shape[1]) + 1).to(dtype).requires_grad_()


def backpropagate(function, x, direction):
    result = function(x)
    return result, *torch.autograd.grad(result, x, direction.to(result.dtype))


@every_shape
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-7)], ids=str)
def test_gate_and_gradient_are_torchs_in_float64(shape, dtype, tolerance):
    x, direction = make_rows(shape, dtype), torch.randn(shape).bfloat16()
    results = backpropagate(gelu_gate_cpu, x, direction)
    assert [each.dtype for each in results] == [dtype, dtype]
    exact = backpropagate(torchs_gelu_gate, x.detach().double().requires_grad_(), direction)
    for value, expected in zip(results, exact, strict=True):
        assert (value - expected).abs().max() <= tolerance * expected.abs().max()


def test_slices_of_wider_rows_give_the_result_of_dense_rows():
    x, direction = make_rows((9, 32)), torch.randn(9, 32)
    sliced = F.pad(x.detach(), (8, 24))[..., 8:-24].requires_grad_()
    results = (backpropagate(gelu_gate_cpu, each, direction) for each in (x, sliced))
    assert all(map(torch.equal, *results))


def test_threads_change_no_bit_of_the_gate():
    x, direction, before = make_rows((700, 32)), torch.randn(700, 32), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(backpropagate(gelu_gate_cpu, x, direction))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_gate_passes_torchs_own_check(dtype):
    torch.library.opcheck(gelu_gate_operator, (make_rows((3, 16), dtype),))


def test_functional_gradients_are_those_of_autograd():
    x, direction = make_rows((9, 32)), torch.randn(9, 32)
    _, expected = backpropagate(gelu_gate_cpu, x, direction)
    assert torch.equal(*gradients_of_func(gelu_gate_cpu, [x], direction), expected)


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning"
)  # torch maps over our operators by a loop
def test_functional_gradients_of_each_of_several_pictures_are_those_of_autograd():
    x, direction = make_rows((9, 32)), torch.randn(2, 9, 32)
    (each,) = torch.func.vmap(lambda one: gradients_of_func(gelu_gate_cpu, [x], one))(direction)
    for one, gradient in zip(direction, each, strict=True):
        assert torch.equal(gradient, backpropagate(gelu_gate_cpu, x, one)[1])


def test_derivatives_that_the_kernel_lacks_are_an_error():
    x = [make_rows((3, 16))]
    assert_refuses_forward_mode(gelu_gate_cpu, x)
    assert_refuses_second_order(gelu_gate_cpu, x)


@pytest.mark.parametrize("width", [16, 20])
@pytest.mark.parametrize("has_kernels", [True, False])
def test_gate_is_torchs_with_and_without_its_kernel(monkeypatch, width, has_kernels):
    if not has_kernels:
        monkeypatch.setattr(layers_dpmambair, "gelu_gate_cpu", None)
    x = torch.randn(2, 3, 5, 2 * width)
    torch.testing.assert_close(gelu_gate(x), torchs_gelu_gate(x))
    strided = x.transpose(1, 2)
    torch.testing.assert_close(gelu_gate(strided), torchs_gelu_gate(strided))


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
def test_depthwise_convolution_is_the_same_with_and_without_its_kernel(monkeypatch, way, width, has_gradients):
    kernel, calls = getattr(layers_dpmambair, f"depthwise_{way}_cpu"), []
    monkeypatch.setattr(layers_dpmambair, f"depthwise_{way}_cpu", lambda *given: calls.append(way) or kernel(*given))
    conv = make_convolution(way, width)
    x = torch.randn(2, 5, 6, conv.in_channels)
    with torch.set_grad_enabled(has_gradients):
        result = getattr(conv, way)(x)
    torch.testing.assert_close(result.double(), run_exactly(conv, way, x), rtol=1e-5, atol=1e-5, check_dtype=False)
    # It has no gradient, and takes whole vectors.
    assert calls == ([way] if width == 16 and not has_gradients else [])


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
