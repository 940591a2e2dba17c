import contextlib
import importlib
import importlib.util
import sys
import threading
import types
import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.signal import lfilter

from modeling_dpmambair import ScanPrompts, prompted_selective_scan, scan_backend, selective_scan
from modeling_dpmambair import selective_scan_dpmambair as scanning
from modeling_dpmambair.selective_scan_dpmambair import resume_selective_scan, selective_scan_loop
from tests.modeling_dpmambair.scanning import (
    BACKENDS,
    SEQUENCES,
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

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
every_backend = pytest.mark.parametrize("backend", BACKENDS)
both_directions = pytest.mark.parametrize("is_reversed", [False, True], ids=["forward", "reversed"])
both_discretizations = pytest.mark.parametrize("discretization", ["euler", "zoh"])


def scan_in_numpy(u, delta, A, B, C, D):
    """Write the recurrence out number by number: a second oracle, for the first."""
    pictures, length, channels = u.shape
    y = np.zeros(u.shape)
    for b in range(pictures):
        for d in range(channels):
            h = np.zeros(A.shape[1])
            for t in range(length):
                h = np.exp(delta[b, t, d] * A[d]) * h + delta[b, t, d] * B[b, t] * u[b, t, d]
                y[b, t, d] = np.dot(C[b, t], h) + D[d] * u[b, t, d]
    return y


# Sequences in parts


@both_directions
@both_discretizations
@pytest.mark.parametrize(("backend", "tolerance"), [("numba", 1e-6), ("chunked", 1e-5), ("loop", 1e-5)])
@pytest.mark.parametrize("shape", [(2, 70, 33, 7), (1, 67, 16, 4)], ids=["padded width", "whole lanes"])
def test_scan_resumed_from_its_state_is_the_scan_of_the_whole(shape, backend, tolerance, discretization, is_reversed):
    inputs = {name: each.float() for name, each in make_inputs(shape).items()}
    options = {"is_reversed": is_reversed, "discretization": discretization}
    whole = run(inputs, backend, **options)
    prompts = ScanPrompts(inputs["alpha_delta"], inputs["alpha_B"], inputs["alpha_C"])
    cuts = [slice(0, 1), slice(1, 40), slice(40, None)]
    state, parts = None, []
    with scan_backend(backend), torch.no_grad():
        for cut in reversed(cuts) if is_reversed else cuts:
            u, dt, B, C = (inputs[name][:, cut] for name in SEQUENCES)
            weights = {"dt_bias": inputs["dt_bias"], "prompts": prompts, **options}
            y, state = resume_selective_scan(u, dt, inputs["A"], B, C, inputs["D"], state=state, **weights)
            parts.append(y)
    assert state.shape == (shape[0], *shape[2:])
    assert relative_error(torch.cat(parts[::-1] if is_reversed else parts, 1), whole) < tolerance


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.005), (torch.bfloat16, 0.03)])
def test_resumed_scan_of_half_precision_stays_within_its_rounding(backend, dtype, tolerance):
    inputs = {name: each.float() for name, each in make_inputs((2, 70, 33, 7)).items()}
    whole = run(inputs, "loop")
    prompts = ScanPrompts(inputs["alpha_delta"], inputs["alpha_B"], inputs["alpha_C"])
    state, parts = None, []
    with scan_backend(backend), torch.no_grad():
        for cut in (slice(0, 40), slice(40, None)):
            u, dt, B, C = (inputs[name][:, cut].to(dtype) for name in SEQUENCES)
            weights = {"dt_bias": inputs["dt_bias"], "prompts": prompts}
            y, state = resume_selective_scan(u, dt, inputs["A"], B, C, inputs["D"], state=state, **weights)
            parts.append(y)
    assert y.dtype == dtype
    assert relative_error(torch.cat(parts, 1), whole) < tolerance


def test_state_of_a_resumed_scan_is_the_recurrences():
    u, delta, A, B, C, D = (each.float() for each in make_plain_inputs((2, 37, 18, 3)))
    h = torch.zeros(2, 18, 3, dtype=torch.float64)
    for step in range(37):
        delta_step, drive = delta[:, step, :, None].double(), B[:, step, None] * u[:, step, :, None]
        h = torch.exp(delta_step * A) * h + delta_step * drive
    inverse_softplus = delta + torch.log(-torch.expm1(-delta))
    prompts = ScanPrompts(torch.ones(2, 18), torch.ones(2, 3), torch.ones(2, 3))
    for backend in BACKENDS:
        with scan_backend(backend):
            arguments = {"dt_bias": torch.zeros(18), "prompts": prompts}
            _, state = resume_selective_scan(u, inverse_softplus, A, B, C, D, state=None, **arguments)
        assert relative_error(state, h) < 1e-5


# Oracles


def test_loop_equals_the_recurrence_written_in_numpy():
    inputs = make_plain_inputs()
    expected = scan_in_numpy(*(each.numpy() for each in inputs))
    torch.testing.assert_close(selective_scan_loop(*inputs), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), [
    ("numba", torch.float32, 1e-5), ("chunked", torch.float32, 1e-5), ("chunked", torch.float64, 1e-12),
    ("loop", torch.float64, 1e-12),
])  # fmt: skip
def test_constant_coefficients_are_scipys_first_order_filter(backend, dtype, tolerance):
    decay, step, gain, skip = -1.7, 0.05, 0.8, 0.3
    u = np.random.default_rng(0).normal(size=300)
    expected = lfilter([step * gain], [1.0, -np.exp(step * decay)], u) + skip * u
    filled = [torch.full(size, value, dtype=dtype) for size, value in [
        ((1, 300, 1), step), ((1, 1), decay), ((1, 300, 1), gain), ((1, 300, 1), 1.0), ((1,), skip),
    ]]  # fmt: skip
    with scan_backend(backend):
        y = selective_scan(torch.from_numpy(u).to(dtype).view(1, -1, 1), *filled)
    assert y.dtype == dtype
    assert relative_error(y.flatten(), torch.from_numpy(expected)) < tolerance


@pytest.mark.parametrize("step", [1e-9, 1e-3, 0.4, 20.0])
@pytest.mark.parametrize(("backend", "dtype", "tolerance"), [
    ("numba", torch.float32, 1e-5), ("chunked", torch.float32, 1e-5), ("chunked", torch.float64, 1e-9),
])  # fmt: skip
def test_zero_order_hold_is_scipys_matrix_exponential(backend, dtype, tolerance, step):
    inputs = make_inputs((1, 5, 1, 2))
    inputs["dt_bias"].fill_(step + np.log(-np.expm1(-step)))  # softplus inverted
    inputs["dt"].zero_()
    for name in ("alpha_delta", "alpha_B", "alpha_C"):
        inputs[name].fill_(1.0)
    A, h, expected = np.diag(inputs["A"][0].numpy()), np.zeros(2), []
    for t in range(5):
        # exp of [[A, B u], [0, 0]] carries the state and adds the held input's integral.
        system = np.zeros((3, 3))
        system[:2, :2], system[:2, 2] = A, inputs["B"][0, t].numpy() * inputs["u"][0, t, 0].item()
        h = (expm(step * system) @ np.append(h, 1.0))[:2]
        expected.append(inputs["C"][0, t].numpy() @ h + (inputs["D"] * inputs["u"][0, t]).item())
    y = run(cast(inputs, dtype), backend, discretization="zoh")
    assert relative_error(y.flatten(), torch.tensor(expected, dtype=torch.float64)) < tolerance


def test_zero_order_hold_differs_from_euler():
    inputs = make_inputs((1, 9, 4, 3))
    assert relative_error(run(inputs, "loop", discretization="zoh"), run(inputs, "loop")) > 0.01


@both_discretizations
@pytest.mark.parametrize("backend", ["loop", "chunked"])
@both_directions
def test_gradients_pass_gradcheck(monkeypatch, backend, is_reversed, discretization):
    monkeypatch.setattr(scanning, "CHUNK_STEPS", 3)  # so that five steps make two chunks
    inputs = cast(make_inputs((2, 5, 2, 2)), torch.float64)

    def scan(*tensors):
        named = dict(zip(inputs, tensors, strict=True))
        return run(named, backend, is_reversed=is_reversed, discretization=discretization)

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()), fast_mode=True)


# Agreement of the implementations


@every_shape
@both_directions
@both_discretizations
@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_outputs_and_all_gradients_agree_with_the_float64_loop(backend, discretization, is_reversed, shape):
    options = {"is_reversed": is_reversed, "discretization": discretization}
    inputs = make_inputs(shape)
    expected = backpropagate(lambda each: run_oracle(each, **options), cast(inputs, torch.float64))
    results = backpropagate(lambda each: run(each, backend, **options), cast(inputs, torch.float32))
    assert {each.dtype for each in results.values()} == {torch.float32}
    # The hold's derivative by A is a difference that cancels; a single number has nothing larger to be measured by.
    assert_close(results, expected, 1e-5 if discretization == "euler" or shape != (1, 1, 1, 1) else 3e-5)


@every_shape
def test_chunks_in_float64_equal_the_loop(shape):
    inputs = make_inputs(shape)
    expected = backpropagate(run_oracle, cast(inputs, torch.float64))
    assert_close(backpropagate(lambda each: run(each, "chunked"), cast(inputs, torch.float64)), expected, 1e-11)


@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_scan_without_prompts_agrees_with_the_float64_loop(backend):
    names = ("u", "delta", "A", "B", "C", "D")
    inputs = dict(zip(names, make_plain_inputs(), strict=True))
    expected = backpropagate(lambda each: selective_scan_loop(*each.values()), cast(inputs, torch.float64))
    with scan_backend(backend):
        results = backpropagate(lambda each: selective_scan(*each.values()), cast(inputs, torch.float32))
    assert_close(results, expected, 1e-5)


@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_long_slow_and_fast_decays_stay_exact(backend):
    # Steps of 1e-3 remember thousands of steps; steps of 10 forget within one, below the smallest float32.
    inputs = make_inputs((1, 1500, 16, 16))
    inputs["dt_bias"] = torch.linspace(-7.0, 10.0, 16, dtype=torch.float64)
    inputs["dt"] *= 0.1
    expected = run_oracle(inputs)
    assert relative_error(run(cast(inputs, torch.float32), backend), expected) < 1e-5


@every_backend
@pytest.mark.parametrize("length", [7, 70])
def test_reversed_scan_is_the_flipped_scan_of_the_flipped_input(backend, length):
    inputs = {name: each.float() for name, each in make_inputs((2, length, 17, 3)).items()}
    flipped = {name: each.flip(1) if name in ("u", "dt", "B", "C") else each for name, each in inputs.items()}
    expected = run(flipped, backend).flip(1)
    torch.testing.assert_close(run(inputs, backend, is_reversed=True), expected, rtol=1e-6, atol=1e-6)


@every_backend
def test_output_depends_on_no_later_step(backend):
    inputs = {name: each.float() for name, each in make_inputs((1, 70, 16, 3)).items()}
    later = dict(inputs)
    later["u"] = inputs["u"].clone()
    later["u"][:, 40:] += 1.0
    assert torch.equal(run(later, backend)[:, :40], run(inputs, backend)[:, :40])
    backwards = [run(each, backend, is_reversed=True)[:, :40] for each in (later, inputs)]
    assert not torch.equal(*backwards)


@pytest.mark.parametrize(("backend", "tolerance"), [("numba", 2**-8), ("chunked", 2**-6)])
def test_bfloat16_stays_within_its_rounding_of_the_same_inputs(backend, tolerance):
    rounded = cast(make_inputs((2, 67, 20, 5)), torch.float32, torch.bfloat16)
    expected = backpropagate(run_oracle, cast(rounded, torch.float64))
    results = backpropagate(lambda each: run(each, backend), rounded)
    assert results["y"].dtype == results["u"].dtype == results["dt"].dtype == results["B"].dtype == torch.bfloat16
    assert results["A"].dtype == results["alpha_delta"].dtype == torch.float32
    assert_close(results, expected, tolerance)


@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_sequences_of_mixed_dtypes_give_the_dtype_of_u(backend):
    inputs = cast(make_inputs((1, 9, 16, 2)), torch.float32)
    expected = run(inputs, backend)
    inputs["u"] = inputs["u"].detach().bfloat16()
    y = run(inputs, backend)
    assert y.dtype == torch.bfloat16
    assert relative_error(y, expected) < 2**-6


@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_pictures_of_a_batch_do_not_mix(backend):
    inputs = {name: each.float() for name, each in make_inputs((3, 40, 16, 4)).items()}
    shared = ("A", "D", "dt_bias")
    singles = [
        run({name: each if name in shared else each[i : i + 1] for name, each in inputs.items()}, backend)
        for i in range(3)
    ]
    torch.testing.assert_close(run(inputs, backend), torch.cat(singles), rtol=1e-6, atol=1e-6)


# Choice of the implementation


@contextlib.contextmanager
def recorded(monkeypatch):
    """Replace the implementations by recorders of their names."""
    calls = []

    def record(name):
        return lambda u, *args, **options: calls.append(name) or torch.zeros_like(u[0] if isinstance(u, tuple) else u)

    with monkeypatch.context() as patch:
        for name in ("mamba_ssm", "kernels", "chunked", "export", "loop"):
            patch.setitem(scanning._SCANS, name, record(name))
        for name in ("numba", "triton"):
            patch.setitem(scanning._FUSED, name, record(name))
        yield calls


def scan_anything(dtype=torch.float32, discretization="euler"):
    inputs = {name: each.to(dtype) for name, each in make_inputs((1, 3, 2, 2)).items()}
    prompts = ScanPrompts(inputs["alpha_delta"], inputs["alpha_B"], inputs["alpha_C"])
    named = {name: inputs[name] for name in ("u", "dt", "A", "B", "C", "D", "dt_bias")}
    return prompted_selective_scan(**named, prompts=prompts, discretization=discretization)


def test_processor_takes_numba_and_float64_takes_chunks(monkeypatch):
    monkeypatch.delenv("DPMAMBAIR_SCAN", raising=False)
    with recorded(monkeypatch) as calls:
        scan_anything()
        scan_anything(torch.bfloat16)
        scan_anything(torch.float64)
        selective_scan(*(each.float() for each in make_plain_inputs((1, 3, 2, 2))))
    assert calls == ["numba", "numba", "chunked", "numba"]


@pytest.mark.parametrize("backend", ["numba", "triton", "mamba_ssm", "kernels", "chunked", "export", "loop"])
def test_context_manager_and_environment_variable_force_an_implementation(monkeypatch, backend):
    monkeypatch.setattr(scanning, "selective_scan_fn", lambda *args, **options: None)
    monkeypatch.setattr(scanning, "prompted_scan_triton", lambda *args: None)
    monkeypatch.setattr(scanning, "is_interpreted", lambda: True, raising=False)
    with recorded(monkeypatch) as calls:
        monkeypatch.setenv("DPMAMBAIR_SCAN", backend)
        scan_anything()
        monkeypatch.setenv("DPMAMBAIR_SCAN", "loop" if backend == "chunked" else "chunked")
        with scan_backend(backend):
            scan_anything()
            selective_scan(*(each.float() for each in make_plain_inputs((1, 3, 2, 2))))
    assert calls == 3 * [backend]


def test_inner_context_wins_and_the_outer_returns_even_after_an_error(monkeypatch):
    with recorded(monkeypatch) as calls, scan_backend("loop"):
        with contextlib.suppress(RuntimeError), scan_backend("chunked"):
            scan_anything()
            raise RuntimeError
        scan_anything()
    assert calls == ["chunked", "loop"]


def test_context_manager_leaves_other_threads_alone(monkeypatch):
    monkeypatch.delenv("DPMAMBAIR_SCAN", raising=False)
    with recorded(monkeypatch) as calls, scan_backend("loop"):
        other = threading.Thread(target=scan_anything)
        other.start()
        other.join()
    assert calls == ["numba"]


def test_unknown_implementation_is_an_error(monkeypatch):
    rule = "must be one of numba, triton, mamba_ssm, kernels, chunked, export, loop, got 'fast'; choose one of these"
    with pytest.raises(ValueError, match=f"`backend` {rule}"), scan_backend("fast"):
        pass
    monkeypatch.setenv("DPMAMBAIR_SCAN", "fast")
    with pytest.raises(ValueError, match=f"`DPMAMBAIR_SCAN` {rule}"):
        scan_anything()


@pytest.mark.parametrize(("backend", "package"), [("mamba_ssm", "mamba-ssm"), ("triton", "triton")])
def test_kernels_of_gpus_refuse_the_zero_order_hold(backend, package):
    rule = f"`discretization` must be 'euler' with {package}, got 'zoh'; let another"
    with scan_backend(backend), pytest.raises(ValueError, match=rule):
        scan_anything(discretization="zoh")


@pytest.mark.parametrize(("backend", "function", "remedy"), [
    ("numba", "prompted_scan_cpu", "pip install numba"),
    ("triton", "prompted_scan_triton", "pip install triton"),
    ("mamba_ssm", "selective_scan_fn", "pip install --no-build-isolation mamba-ssm"),
])  # fmt: skip
def test_implementation_whose_package_is_missing_says_what_to_install(monkeypatch, backend, function, remedy):
    monkeypatch.setattr(scanning, function, None)
    with scan_backend(backend), pytest.raises(ImportError, match=f"the scan backend '{backend}' needs .*: {remedy}"):
        scan_anything()


def test_triton_refuses_tensors_that_are_on_no_gpu(monkeypatch):
    monkeypatch.setattr(scanning, "prompted_scan_triton", lambda *args: None)
    monkeypatch.setattr(scanning, "is_interpreted", lambda: False, raising=False)
    with scan_backend("triton"), pytest.raises(ValueError, match="`u` must be on a GPU with triton, got cpu; let "):
        scan_anything()


@pytest.mark.parametrize(("missing", "discretization", "backend"), [
    ((), "euler", "triton"), (("prompted_scan_triton",), "euler", "mamba_ssm"), ((), "zoh", "chunked"),
])  # fmt: skip
def test_card_takes_triton_first_and_mamba_ssm_without_it(monkeypatch, missing, discretization, backend):
    monkeypatch.delenv("DPMAMBAIR_SCAN", raising=False)
    for name in ("prompted_scan_triton", "selective_scan_fn"):
        monkeypatch.setattr(scanning, name, None if name in missing else lambda *args: None)
    u = types.SimpleNamespace(dtype=torch.float32, device=torch.device("cuda"))
    assert scanning._choose_backend(u, discretization) == backend


def test_missing_numba_is_said_once_and_chunks_run_instead(monkeypatch):
    monkeypatch.delenv("DPMAMBAIR_SCAN", raising=False)
    expected = scan_anything()
    monkeypatch.setattr(scanning, "prompted_scan_cpu", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        results = [scan_anything() for _ in range(3)]
    assert [str(each.message) for each in caught] == [
        "the selective scan runs in plain torch on cpu, which is slow: pip install numba"
    ]
    torch.testing.assert_close(results[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("device", "remedy"), [
    ("cuda", "plain torch on cuda, which is slow: pip install triton"),
    ("mps", "plain torch on mps, which is slow: there is none for this device yet"),
])  # fmt: skip
def test_warning_names_the_device_and_its_remedy(device, remedy):
    with pytest.warns(UserWarning, match=remedy):
        scanning.warn_slow_scan(device)


def test_module_imports_without_its_kernels(monkeypatch):
    name = scanning.__name__
    for kernels in ("cpu_scan_", "triton_scan_"):
        monkeypatch.setitem(sys.modules, name.replace("selective_scan_", kernels), None)
    spec = importlib.util.spec_from_file_location(f"{name}_without_numba", scanning.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert copy.prompted_scan_cpu is None
    assert copy.prompted_scan_triton is None
    plain = [each.float() for each in make_plain_inputs()]
    with pytest.warns(UserWarning, match="pip install numba"):
        y = copy.selective_scan(*plain)
    torch.testing.assert_close(y, selective_scan(*plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), [
    ("delta", (1, 4, 3)), ("A", (4, 2)), ("B", (1, 5, 3)), ("C", (2, 5, 2)), ("D", (1,)),
])  # fmt: skip
def test_shapes_that_do_not_belong_together_are_an_error(name, shape):
    shapes = {"u": (1, 5, 3), "delta": (1, 5, 3), "A": (3, 2), "B": (1, 5, 2), "C": (1, 5, 2), "D": (3,)}
    correct = shapes[name]
    tensors = {each: -torch.ones(shape if each == name else size) for each, size in shapes.items()}
    rule = (
        rf"`{name}` must be of shape \({', '.join(map(str, correct))},?\), got \({', '.join(map(str, shape))},?\); it "
    )
    with pytest.raises(ValueError, match=rule):
        selective_scan(**tensors)
    tensors["dt"] = tensors.pop("delta")
    prompts = ScanPrompts(torch.ones(1, 3), torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match=rule):
        prompted_selective_scan(**tensors, dt_bias=torch.ones(3), prompts=prompts)


@pytest.mark.parametrize(("name", "shape"), [
    ("alpha_delta", (1, 3)), ("alpha_delta", (2, 4)), ("alpha_B", (1, 2)), ("alpha_C", (2, 1)), ("dt_bias", (4,)),
])  # fmt: skip
@pytest.mark.parametrize("backend", ["numba", "chunked"])
def test_prompts_of_a_wrong_shape_are_an_error(backend, name, shape):
    inputs = {each: tensor.float() for each, tensor in make_inputs((2, 5, 3, 2)).items()}
    inputs[name] = torch.ones(shape)
    with pytest.raises(ValueError, match="must be of shape"):
        run(inputs, backend)
