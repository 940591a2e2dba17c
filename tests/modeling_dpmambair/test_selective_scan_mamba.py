"""The call to mamba-ssm, whose kernel needs a CUDA device: its contract, and its own reference in its place."""

import importlib
import os
import subprocess
import sys
import types
import warnings

import pytest
import torch

from modeling_dpmambair import scan_backend, selective_scan
from modeling_dpmambair import selective_scan_dpmambair as scanning
from modeling_dpmambair.selective_scan_dpmambair import selective_scan_loop, selective_scan_mamba
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


def record_mamba_call(calls):
    """Stand in for mamba-ssm's function: its documented signature, computed by our loop."""

    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        calls.append({"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D})
        assert z is None
        assert delta_bias is None
        assert delta_softplus is False
        assert return_last_state is False
        u, delta, B, C = (each.transpose(1, 2).float() for each in (u, delta, B, C))
        return selective_scan_loop(u, delta, A, B, C, D).transpose(1, 2).to(calls[-1]["u"].dtype)

    return selective_scan_fn


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mamba_ssm_is_called_as_it_documents(monkeypatch, dtype):
    calls = []
    monkeypatch.setattr(scanning, "selective_scan_fn", record_mamba_call(calls))
    # B and C are slices of one projection, as in the mixer; A and D may come in half precision.
    inputs = cast(make_inputs((2, 7, 6, 3)), torch.float32, dtype)
    matrices = torch.cat([inputs["B"], inputs["C"]], -1)
    inputs["B"], inputs["C"] = matrices[..., :3], matrices[..., 3:]
    y = run(inputs, "mamba_ssm")
    (call,) = calls
    assert {name: tuple(each.shape) for name, each in call.items()} == {
        "u": (2, 6, 7), "delta": (2, 6, 7), "A": (6, 3), "B": (2, 3, 7), "C": (2, 3, 7), "D": (6,),
    }  # fmt: skip
    assert {call[name].dtype for name in ("u", "delta", "B", "C")} == {dtype}
    assert {call[name].dtype for name in ("A", "D")} == {torch.float32}
    assert all(each.stride(-1) == 1 for each in call.values())
    assert y.shape == (2, 7, 6)
    assert y.dtype == dtype
    with torch.no_grad():
        assert relative_error(y, run_oracle(cast(inputs, torch.float64))) < (1e-5 if dtype == torch.float32 else 2**-6)


def build_mamba_ssm(folder):
    """Build mamba-ssm without its CUDA extension into a folder, unless it stands there already."""
    if (folder / "mamba_ssm").exists():
        return
    build = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target", str(folder)]
    environment = {**os.environ, "MAMBA_SKIP_CUDA_BUILD": "TRUE", "MAMBA_FORCE_BUILD": "TRUE"}
    done = subprocess.run([*build, "mamba-ssm"], env=environment, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"building mamba-ssm's reference needs the package index; pip said:\n{done.stderr[-2000:]}")


@pytest.fixture
def selective_scan_ref(request, monkeypatch):
    """Return mamba-ssm's own reference, imported from its pure-Python build."""
    folder = request.config.cache.mkdir("mamba-ssm-python")
    build_mamba_ssm(folder)
    monkeypatch.syspath_prepend(str(folder))
    # Importing any of mamba-ssm imports its CUDA extension, which the reference never calls.
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", types.ModuleType("selective_scan_cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_ref
    for name in [name for name in sys.modules if name.partition(".")[0] == "mamba_ssm"]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("is_reversed", [False, True], ids=["forward", "reversed"])
def test_mamba_ssms_own_reference_agrees_through_the_call_of_the_cuda_path(
    monkeypatch, selective_scan_ref, is_reversed
):
    monkeypatch.setattr(scanning, "selective_scan_fn", selective_scan_ref)
    for shape in SHAPES:
        inputs = make_inputs(shape)
        by_mamba, by_numba, by_chunks = (
            backpropagate(
                lambda each, name=name: run(each, name, is_reversed=is_reversed), cast(inputs, torch.float32)
            )
            for name in ("mamba_ssm", "numba", "chunked")
        )
        assert_close(by_numba, by_mamba, 1e-5)
        assert_close(by_chunks, by_mamba, 1e-5)
        plain = [each.float() for each in make_plain_inputs(shape)]
        with scan_backend("numba"):
            expected = selective_scan(*plain)
        assert relative_error(selective_scan_mamba(*plain), expected) < 1e-5
