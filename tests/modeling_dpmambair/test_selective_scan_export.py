import pytest
import torch

from modeling_dpmambair import DPMambaIRModel, scan_backend
from modeling_dpmambair import selective_scan_export_dpmambair as exporting
from modeling_dpmambair.layers_dpmambair import DepthwiseConv2d, gelu_gate
from tests.modeling_dpmambair.models import pictures, randomized, small_config
from tests.modeling_dpmambair.scanning import cast, make_inputs, relative_error, run, run_oracle


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("length", [1, 7, 8, 9, 40, 67])
@pytest.mark.parametrize("is_reversed", [False, True], ids=["forward", "reversed"])
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
def test_parts_agree_with_the_float64_loop(monkeypatch, discretization, is_reversed, length):
    monkeypatch.setattr(exporting, "EXPORT_STEPS", 8)  # so that short sequences have many parts
    options = {"is_reversed": is_reversed, "discretization": discretization}
    inputs = make_inputs((2, length, 5, 3))
    expected = run_oracle(inputs, **options)
    y = run(cast(inputs, torch.float32), "export", **options)
    assert y.dtype == torch.float32
    assert relative_error(y, expected) < 1e-5
    assert relative_error(run(inputs, "export", **options), expected) < 1e-12


def test_long_slow_and_fast_decays_stay_exact():
    # Steps of 1e-3 remember thousands of steps; steps of 10 forget within one, below the smallest float32.
    inputs = make_inputs((1, 700, 16, 16))
    inputs["dt_bias"] = torch.linspace(-7.0, 10.0, 16, dtype=torch.float64)
    inputs["dt"] *= 0.1
    assert relative_error(run(cast(inputs, torch.float32), "export"), run_oracle(inputs)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_in_its_dtype(dtype):
    inputs = cast(make_inputs((1, 40, 5, 3)), torch.float32, dtype)
    y = run(inputs, "export")
    assert y.dtype == dtype
    assert relative_error(y, run_oracle(cast(inputs, torch.float64))) < 2**-6


@pytest.mark.parametrize(("kernel", "build", "width"), [
    ("gelu_gate_cpu", lambda: gelu_gate, 64),
    ("depthwise_silu_cpu", lambda: DepthwiseConv2d(32, 3, bias=True).silu, 32),
    ("depthwise_gate_cpu", lambda: DepthwiseConv2d(64, 3, bias=False).gate, 64),
])  # fmt: skip
def test_layers_run_without_kernels_of_ours(monkeypatch, kernel, build, width):
    def refuse(*_):
        raise AssertionError("the kernel ran")

    layer, x = build(), torch.randn(2, 5, 6, width)
    expected = layer(x)
    monkeypatch.setattr(f"modeling_dpmambair.layers_dpmambair.{kernel}", refuse)
    with pytest.raises(AssertionError, match="the kernel ran"):
        layer(x)
    with scan_backend("export"):
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_program_traced_for_export_needs_operators_of_torch_only():
    scan = randomized(DPMambaIRModel(small_config(dim=16))).network.refinement.blocks[0]
    features, embedding = torch.randn(1, 12, 13, 32), torch.randn(1, 8)
    size = torch.export.Dim.DYNAMIC
    with scan_backend("export"):
        program = torch.export.export(scan, (features, embedding), dynamic_shapes=({1: size, 2: size}, None))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "scan" in targets
    assert not [target for target in targets if "dpmambair" in target]
    other = torch.randn(1, 31, 20, 32)
    torch.testing.assert_close(program.module()(other, embedding), scan(other, embedding), rtol=1e-5, atol=1e-5)


def test_model_agrees_with_its_kernels():
    model, degraded = randomized(DPMambaIRModel(small_config(dim=16, scan_directions=2))), pictures(2, 11, 18)
    expected = model(degraded).reconstruction
    with scan_backend("export"):
        result = model(degraded).reconstruction
    assert (expected - degraded).abs().max() > 0.1
    assert relative_error(result - degraded, expected - degraded) < 1e-5
