import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numba import njit

from modeling_dpmambair import cpu_simd_dpmambair as lanes
from modeling_dpmambair.cpu_simd_dpmambair import LANES, fma, load, load_scalar, splat, store


def apply(function, values):
    """Compile a kernel that maps vectors by the function, and run it over the values."""

    @njit
    def kernel(x, y):
        for i in range(0, x.size, LANES):
            store(y, i, function(load(x, i)))

    padded = np.resize(np.asarray(values, np.float32), -(-len(values) // LANES) * LANES)
    result = np.empty_like(padded)
    kernel(padded, result)
    return result[: len(values)].astype(np.float64)


def assert_relatively_close(result, expected, tolerance):
    error = np.abs(result - expected) / np.abs(expected)
    assert error.max() <= np.broadcast_to(tolerance, error.shape)[error.argmax()], error.max()
    assert (error <= tolerance).all()


# Functions


def test_exp2_is_accurate_over_its_range():
    x = np.concatenate([np.linspace(-126, 126, 100_001), np.linspace(-1e-3, 1e-3, 1001)]).astype(np.float32)
    assert_relatively_close(apply(lanes.exp2, x), np.exp2(x.astype(np.float64)), 2e-7)


def test_exp2_is_exact_at_whole_numbers():
    whole = np.arange(-126, 127)
    np.testing.assert_array_equal(apply(lanes.exp2, whole), np.exp2(whole.astype(np.float64)))


def test_exp2_stops_at_the_smallest_normal_number():
    np.testing.assert_array_equal(apply(lanes.exp2, [-127, -1e6, -3e38, -np.inf]), 2.0**-126)


@pytest.mark.slow
def test_without_avx512_the_results_are_as_accurate():
    tests = [f"{__file__}::{each.__name__}" for each in (
        test_exp2_is_accurate_over_its_range, test_exp2_stops_at_the_smallest_normal_number,
        test_reciprocal_is_accurate_over_its_range,
    )]  # fmt: skip
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-m", "pytest", "-q", *tests]
    run = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_exp2m1_is_accurate_over_its_range():
    magnitudes = np.geomspace(1e-30, 126, 50_000)
    x = np.concatenate([magnitudes, -magnitudes]).astype(np.float32)
    assert_relatively_close(apply(lanes.exp2m1, x), np.expm1(x.astype(np.float64) * np.log(2)), 1e-6)


def test_exp2m1_of_zero_and_of_the_far_below():
    np.testing.assert_array_equal(apply(lanes.exp2m1, [0, -0.0, -126, -1e6, -np.inf]), [0, 0, -1, -1, -1])


def test_log1p_is_accurate_over_its_range():
    x = np.concatenate([np.linspace(1e-6, 1, 100_001), np.geomspace(1e-38, 1e-3, 1001)]).astype(np.float32)
    assert_relatively_close(apply(lanes.log1p, x), np.log1p(x.astype(np.float64)), 3e-7)
    assert apply(lanes.log1p, [0.0])[0] == 0


# The exponent's own rounding grows with it, by half an ulp of a number of that size.
EXPONENT_ROUNDING = 2.0**-23


@pytest.mark.parametrize(("function", "exact"), [
    (lanes.softplus, lambda x: np.logaddexp(0, x)), (lanes.sigmoid, lambda x: np.exp(-np.logaddexp(0, -x))),
], ids=["softplus", "sigmoid"])  # fmt: skip
def test_softplus_and_sigmoid_are_relatively_accurate_on_both_sides(function, exact):
    x = np.concatenate([np.linspace(-87, 87, 50_001), np.linspace(-1e-3, 1e-3, 1001)]).astype(np.float32)
    tolerance = 6e-7 + EXPONENT_ROUNDING * np.abs(x)
    assert_relatively_close(apply(function, x), exact(x.astype(np.float64)), tolerance)


def test_softplus_and_sigmoid_do_not_overflow():
    extremes = [-3e38, -1e4, 1e4, 3e38]
    np.testing.assert_allclose(apply(lanes.softplus, extremes), [0, 0, 1e4, np.float32(3e38)], rtol=1e-7, atol=1e-37)
    np.testing.assert_allclose(apply(lanes.sigmoid, extremes), [0, 0, 1, 1], rtol=1e-7, atol=1e-37)


# Arithmetic


def test_arithmetic_is_that_of_float32():
    @njit
    def kernel(x, y, z, out):
        a, b, c = load(x, 0), load(y, 0), load(z, 0)
        store(out, 0, a + b)
        store(out, LANES, a * b)
        store(out, 2 * LANES, lanes.maximum(a, b))
        store(out, 3 * LANES, lanes.absolute(a))
        store(out, 4 * LANES, splat(x[3]))
        store(out, 5 * LANES, fma(a, b, c))

    x, y, z = np.random.default_rng(0).normal(size=(3, LANES)).astype(np.float32)
    out = np.empty(6 * LANES, np.float32)
    kernel(x, y, z, out)
    exact = [x + y, x * y, np.maximum(x, y), np.abs(x), np.full(LANES, x[3])]
    np.testing.assert_array_equal(out[: 5 * LANES], np.concatenate(exact))
    np.testing.assert_allclose(out[5 * LANES :], x.astype(np.float64) * y + z, rtol=0, atol=3e-7)


def test_reciprocal_is_accurate_over_its_range():
    x = np.geomspace(1e-37, 1e37, 100_001).astype(np.float32)
    assert_relatively_close(apply(lanes.reciprocal, x), 1 / x.astype(np.float64), 2e-7)


def test_add_folded_keeps_four_sums_apart():
    @njit
    def kernel(x, out):
        lanes.add_folded(out, 0, load(x, 0), load(x, LANES), load(x, 2 * LANES), load(x, 3 * LANES))

    x, out = np.random.default_rng(0).normal(size=(4, LANES)).astype(np.float32), np.full(LANES, 2.0, np.float32)
    kernel(x.ravel(), out)
    w, x, y, z = x.astype(np.float64).sum(1)
    np.testing.assert_allclose(out.reshape(4, 4).sum(1) - 8, [w, y, x, z], rtol=0, atol=1e-5)


# Memory


@njit
def copy_vectors(source, target):
    for i in range(0, source.size, LANES):
        store(target, i, load(source, i))


@njit
def copy_scalars(source, target):
    for i in range(source.size):
        target[i] = load_scalar(source, i)


def as_bits(tensor):
    return tensor.view(torch.int16).numpy()


@pytest.mark.parametrize("copy", [copy_vectors, copy_scalars], ids=["vectors", "scalars"])
def test_every_bfloat16_is_read_as_torch_reads_it(copy):
    halves = torch.arange(-(2**15), 2**15).to(torch.int16)
    expected = halves.view(torch.bfloat16).float().numpy()
    result = np.empty(halves.numel(), np.float32)
    copy(halves.numpy(), result)
    np.testing.assert_array_equal(result.view(np.int32), expected.view(np.int32))


def test_bfloat16_is_rounded_as_torch_rounds_it():
    rng = np.random.default_rng(0)
    random_bits = rng.integers(0, 2**32, 2**16, np.uint32).view(np.float32)
    upper = rng.integers(0, 2**16, 2**12, np.uint32) << 16
    ties = np.concatenate([upper | 0x8000, upper | 0x7FFF, upper | 0x8001, upper]).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e-45], np.float32)
    values = np.concatenate([random_bits, ties, special, np.zeros(8, np.float32)])
    values[np.isnan(values)] = 1.0
    result = np.empty(values.size, np.int16)
    copy_vectors(values, result)
    np.testing.assert_array_equal(result, as_bits(torch.from_numpy(values).bfloat16()))


def test_not_a_number_stays_one_in_bfloat16():
    result = np.empty(LANES, np.int16)
    copy_vectors(np.full(LANES, np.nan, np.float32), result)
    assert torch.from_numpy(result).view(torch.bfloat16).isnan().all()


def test_vectors_may_begin_at_any_index():
    @njit
    def kernel(source, target):
        store(target, 3, load(source, 5))

    source, target = np.arange(40, dtype=np.float32), np.zeros(40, np.float32)
    kernel(source, target)
    np.testing.assert_array_equal(target, np.concatenate([np.zeros(3), source[5:21], np.zeros(21)]))


# Without numba


def test_missing_numba_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    spec = importlib.util.spec_from_file_location(f"{lanes.__name__}_without_numba", lanes.__file__)
    with pytest.raises(ImportError, match="the fast selective scan on the processor needs numba: pip install numba"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
