"""mamba-ssm's kernel from the Hub; in its place a folder with a function in plain torch, of the same signature."""

import json
import re
import sys
import types

import pytest
import torch
from huggingface_hub import constants

from modeling_dpmambair import scan_backend, selective_scan
from modeling_dpmambair.hub_kernel_dpmambair import HUB_KERNEL, load_hub_kernel
from tests.modeling_dpmambair.scanning import (
    SHAPES,
    assert_close,
    backpropagate,
    cast,
    make_inputs,
    make_plain_inputs,
    relative_error,
    run,
    run_oracle,
)

# What mamba-ssm's CUDA function checks and computes, for a decay (D, N) and matrices (B, N, L).
KERNEL = """
import torch


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    if any(each.dtype != u.dtype for each in (delta, B, C)) or {A.dtype, D.dtype} != {torch.float32}:
        raise RuntimeError("the kernel is not compiled for these types")
    if any(each.stride(-1) != 1 for each in (u, delta, A, B, C, D)):
        raise RuntimeError("the last dimension must be contiguous")
    if delta_softplus or not (z is None and delta_bias is None and return_last_state is False):
        raise RuntimeError("this stand-in knows no gate, no bias and no softplus")
    state, outputs = 0, []
    for now in range(u.shape[-1]):
        x, step = u[:, :, now, None].float(), delta[:, :, now, None].float()
        state = state * (step * A).exp() + step * x * B[:, None, :, now].float()
        outputs.append((state * C[:, None, :, now].float()).sum(2) + x[..., 0] * D)
    return torch.stack(outputs, 2).to(u.dtype)
"""
METADATA = {
    "id": "_mamba_ssm_of_the_tests",
    "name": "mamba-ssm",
    "version": 5,
    "license": "Apache-2.0",
    "python-depends": ["einops"],
    "backend": {"type": "cpu"},
}


@pytest.fixture(autouse=True)
def forgetful():
    """Load the kernel anew in each test."""
    load_hub_kernel.cache_clear()
    yield
    load_hub_kernel.cache_clear()


@pytest.fixture
def local_kernel(tmp_path, monkeypatch):
    """Give `kernels` a folder to look in before the Hub; returns it."""
    build = tmp_path / "kernel" / "build" / "torch-universal"
    build.mkdir(parents=True)
    (build / "metadata.json").write_text(json.dumps(METADATA))
    (build / "__init__.py").write_text(KERNEL)
    monkeypatch.setenv("LOCAL_KERNELS", f"{HUB_KERNEL}={tmp_path / 'kernel'}")
    return build


def stand_in(monkeypatch, load):
    """Put a module in the place of `kernels`; returns what it is asked for."""
    calls, module = [], types.ModuleType("kernels")
    module.get_kernel = lambda name, **options: calls.append((name, options)) or load()
    monkeypatch.setitem(sys.modules, "kernels", module)
    return calls


def scan_anything(**options):
    return run(cast(make_inputs((1, 3, 2, 2)), torch.float32), "kernels", **options)


@pytest.mark.parametrize("is_reversed", [False, True], ids=["forward", "reversed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_of_the_hub_gives_the_oracles_values_and_gradients(local_kernel, shape, is_reversed):
    inputs = make_inputs(shape)
    found = backpropagate(lambda each: run(each, "kernels", is_reversed=is_reversed), cast(inputs, torch.float32))
    expected = backpropagate(lambda each: run_oracle(each, is_reversed), cast(inputs, torch.float64))
    assert_close(found, expected, 1e-5)


def test_kernel_of_the_hub_takes_half_precision(local_kernel):
    inputs = cast(make_inputs((2, 7, 6, 3)), torch.float32, torch.bfloat16)
    y = run(inputs, "kernels")
    assert y.dtype == torch.bfloat16
    with torch.no_grad():
        assert relative_error(y, run_oracle(cast(inputs, torch.float64))) < 2**-6


def test_environment_variable_takes_the_kernel_of_the_hub(local_kernel, monkeypatch):
    (local_kernel / "__init__.py").write_text(KERNEL.replace("x[..., 0] * D", "x[..., 0] * D + 5"))
    inputs = [each.float() for each in make_plain_inputs()]
    with scan_backend("loop"):
        expected = selective_scan(*inputs) + 5
    monkeypatch.setenv("DPMAMBAIR_SCAN", "kernels")
    torch.testing.assert_close(selective_scan(*inputs), expected, rtol=1e-5, atol=1e-5)


def test_compiled_program_goes_around_the_kernel_of_the_hub(local_kernel):
    inputs = [each.float() for each in make_plain_inputs((1, 5, 4, 2))]
    torch.compiler.reset()
    with scan_backend("kernels"):
        compiled = torch.compile(selective_scan, backend="aot_eager")(*inputs)
        torch.testing.assert_close(compiled, selective_scan(*inputs))
    torch.compiler.reset()


def test_hub_is_asked_by_those_alone_who_name_it_and_once(monkeypatch):
    calls = stand_in(monkeypatch, lambda: types.SimpleNamespace(selective_scan_fn=lambda u, *_, **__: u))
    monkeypatch.delenv("DPMAMBAIR_SCAN", raising=False)
    inputs = [each.float() for each in make_plain_inputs()]
    selective_scan(*inputs)
    for backend in ("numba", "chunked", "loop"):
        with scan_backend(backend):
            selective_scan(*inputs)
    assert calls == []
    with scan_backend("kernels"):
        assert all(torch.equal(selective_scan(*inputs), inputs[0]) for _ in range(2))
    assert calls == [("kernels-community/mamba-ssm", {"version": 5})]


# What becomes of a machine without it


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(ImportError, match="'kernels' needs kernels: pip install kernels einops"):
        scan_anything()


def test_cache_without_the_kernel_is_an_error_offline():
    rule = f"'kernels' needs {HUB_KERNEL}, version 5, got none in the cache while HF_HUB_OFFLINE is set; unset it once"
    with pytest.raises(ImportError, match=rule):
        scan_anything()


def test_kernel_without_a_build_for_this_machine_is_an_error(local_kernel):
    local_kernel.rename(local_kernel.with_name("torch29-cxx11-cu126-aarch64-linux"))
    rule = re.escape(f"got no build for torch {torch.__version__} on this machine; let another backend compute it")
    with pytest.raises(ImportError, match=rule):
        scan_anything()


def test_kernel_that_fails_is_an_error_and_is_tried_again(local_kernel):
    (local_kernel / "__init__.py").write_text("raise RuntimeError('the driver is too old. Ask your vendor.')")
    with pytest.raises(ImportError, match="got RuntimeError: the driver is too old; let another backend compute it"):
        scan_anything()
    (local_kernel / "__init__.py").write_text(KERNEL)
    assert scan_anything().shape == (1, 3, 2)


def test_hub_that_does_not_answer_is_an_error(monkeypatch):
    def refuse():
        raise ValueError("Kernel repository 'x' could not verify trust. Set trust_remote_code=True to allow anything.")

    stand_in(monkeypatch, refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ImportError, match="got ValueError: Kernel repository 'x' could not verify trust; let another"):
        scan_anything()


def test_zero_order_hold_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="`discretization` must be 'euler' with mamba-ssm, got 'zoh'; let another"):
        scan_anything(discretization="zoh")
