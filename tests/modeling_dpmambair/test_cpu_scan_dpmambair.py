import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from modeling_dpmambair import cpu_threads_dpmambair, selective_scan_dpmambair
from modeling_dpmambair.cpu_scan_dpmambair import (
    _share_out,
    prompted_scan_backward_operator,
    prompted_scan_cpu,
    prompted_scan_cpu_backward,
    prompted_scan_operator,
    resume_scan_cpu,
    run_tasks,
)
from modeling_dpmambair.cpu_scan_kernels_dpmambair import STATES
from modeling_dpmambair.cpu_simd_dpmambair import LANES
from tests.modeling_dpmambair.derivatives import (
    assert_refuses_forward_mode,
    assert_refuses_second_order,
    gradients_of_func,
)
from tests.modeling_dpmambair.scanning import (
    assert_close,
    backpropagate,
    cast,
    make_inputs,
    relative_error,
    run,
    run_oracle,
)


@pytest.fixture
def two_threads():
    """Let torch, and so the kernels, use two threads, whatever the environment said."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def backpropagate_numba(inputs):
    return backpropagate(lambda each: run(each, "numba"), cast(inputs, torch.float32))


def assert_equal(results, expected):
    unequal = [name for name in expected if not torch.equal(results[name], expected[name])]
    assert not unequal


# Memory layouts


def test_slices_of_one_projection_need_no_copy_and_give_its_gradient():
    inputs = cast(make_inputs((2, 45, 16, 5)), torch.float32)
    expected = backpropagate(lambda each: run(each, "numba"), inputs)
    packed = torch.cat([torch.zeros(2, 45, 3), inputs["B"], inputs["C"]], -1).detach().requires_grad_()
    _, B, C = packed.split([3, 5, 5], -1)
    y = run({**inputs, "B": B, "C": C}, "numba")
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).float()
    (gradient,) = torch.autograd.grad((y * direction).sum(), packed)
    assert torch.equal(y, expected["y"])
    assert torch.equal(gradient[..., 3:], torch.cat([expected["B"], expected["C"]], -1))
    assert not gradient[..., :3].any()


def transposed(each):
    return each.mT.contiguous().mT


def every_second(each):
    return each.repeat_interleave(2, -1)[..., ::2]


def expanded(each):
    return each[:, :1].expand_as(each)


@pytest.mark.parametrize("layout", [transposed, every_second, expanded], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize(
    "names", [("u", "dt"), ("B",), ("C",), ("B", "C"), ("A", "alpha_delta"), ("alpha_B", "alpha_C")]
)
def test_any_strides_give_the_result_of_dense_tensors(names, layout):
    inputs = {name: each.float() for name, each in make_inputs((3, 35, 16, 4)).items()}
    strided = {name: layout(each) if name in names else each for name, each in inputs.items()}
    dense = {name: each.contiguous() for name, each in strided.items()}
    assert any(each.stride() != dense[name].stride() for name, each in strided.items())
    assert torch.equal(run(strided, "numba"), run(dense, "numba"))


def test_gradient_of_any_strides_is_taken():
    inputs = cast(make_inputs((2, 35, 16, 4)), torch.float32)
    (expected,) = torch.autograd.grad(run(inputs, "numba").sum(), inputs["u"])
    (gradient,) = torch.autograd.grad(run(inputs, "numba").mT.contiguous().mT.sum(), inputs["u"])
    assert torch.equal(gradient, expected)


def test_inputs_stay_untouched():
    inputs = cast(make_inputs((1, 40, 20, 3)), torch.float32)
    before = {name: each.detach().clone() for name, each in inputs.items()}
    backpropagate(lambda each: run(each, "numba"), inputs)
    assert_equal({name: each.detach() for name, each in inputs.items()}, before)


def test_only_the_gradients_that_are_asked_for_are_given():
    inputs = {name: each.float() for name, each in make_inputs((1, 40, 16, 3)).items()}
    inputs["alpha_B"].requires_grad_()
    run(inputs, "numba").sum().backward()
    assert [name for name, each in inputs.items() if each.grad is not None] == ["alpha_B"]


def test_second_backward_gives_the_same_gradients():
    inputs = cast(make_inputs((2, 40, 16, 3)), torch.float32)
    y = run(inputs, "numba").sum()
    first = torch.autograd.grad(y, list(inputs.values()), retain_graph=True)
    second = torch.autograd.grad(y, list(inputs.values()))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("is_needed", [False, True])
def test_states_are_kept_only_for_a_backward(monkeypatch, is_needed):
    kept = []

    def record(*args):
        kept.append(args[-1])
        return prompted_scan_cpu(*args)

    monkeypatch.setattr(selective_scan_dpmambair, "prompted_scan_cpu", record)
    inputs = cast(make_inputs((1, 5, 16, 2)), torch.float32)
    with torch.set_grad_enabled(is_needed):
        run(inputs, "numba")
    run({name: each.detach() for name, each in inputs.items()}, "numba")
    assert kept == [is_needed, False]


# Threads and processes


@pytest.mark.parametrize(("pictures", "blocks", "threads"), [(1, 1, 1), (1, 5, 2), (3, 5, 2), (2, 7, 8), (1, 2, 64)])
def test_tasks_cover_every_block_of_every_picture_once(pictures, blocks, threads):
    tasks = _share_out(pictures, blocks, threads)
    covered = sorted((task.picture, block) for task in tasks for block in range(task.first, task.last))
    assert covered == [(picture, block) for picture in range(pictures) for block in range(blocks)]
    assert len(tasks) >= min(threads, pictures * blocks)
    # Tasks of one picture add to the gradients of B and C in rows of their own.
    assert len({(task.picture, task.group) for task in tasks}) == len(tasks)


@pytest.mark.parametrize("shape", [(1, 70, 80, 4), (3, 33, 16, 4)], ids=["one picture", "three pictures"])
def test_thread_count_changes_no_result(two_threads, shape):
    inputs = make_inputs(shape)
    by_two = backpropagate_numba(inputs)
    torch.set_num_threads(1)
    by_one = backpropagate_numba(inputs)
    # B and C sum over the channels: by groups of blocks, so in another order with more threads.
    summed = {"B", "C", "alpha_B", "alpha_C"}
    assert_equal(by_two, {name: each for name, each in by_one.items() if name not in summed})
    assert_close(by_two, by_one, 1e-6)


def test_same_thread_count_gives_the_same_bits(two_threads):
    inputs = make_inputs((2, 70, 48, 4))
    assert_equal(backpropagate_numba(inputs), backpropagate_numba(inputs))


def test_calls_from_several_threads_at_once_do_not_disturb_each_other(two_threads):
    jobs = [make_inputs((2, 40 + seed, 32, 4), seed) for seed in range(8)]
    expected = [backpropagate_numba(inputs) for inputs in jobs]
    with ThreadPoolExecutor(4) as pool:
        for results, alone in zip(pool.map(backpropagate_numba, jobs), expected, strict=True):
            assert_equal(results, alone)


def _run_in_child(connection, inputs):
    # Only the kernels: torch's own threads do not outlive a fork.
    with torch.no_grad():
        connection.send(run(inputs, "numba").numpy())


def test_forked_process_scans_after_its_parent_did(two_threads):
    inputs = {name: each.float() for name, each in make_inputs((2, 50, 48, 4)).items()}
    expected = run(inputs, "numba")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_in_child, args=(sender, inputs))
    child.start()
    try:
        assert receiver.poll(30), "the forked process hangs"
        assert torch.equal(torch.from_numpy(receiver.recv()), expected)
        child.join(10)
        assert child.exitcode == 0
    finally:
        child.kill()


@pytest.fixture(params=["torch's threads", "a pool"])
def threads(request, two_threads, monkeypatch):
    if request.param == "a pool":
        monkeypatch.setattr(cpu_threads_dpmambair, "_torch_threads", lambda: None)


def test_every_task_runs_once_on_two_threads(threads):
    count = 5
    done, together = [], threading.Barrier(2, timeout=30)

    def note(task, first_of_two):
        if first_of_two:
            together.wait()
        done.append((task, threading.get_ident()))

    run_tasks(note, range(count), (), (), scratch=lambda task: (task < 2,))
    assert sorted(task for task, _ in done) == list(range(count))
    assert len({thread for _, thread in done}) == 2


def test_error_in_a_thread_reaches_the_caller(threads):
    def fail(task):
        if task.picture == 1:
            raise RuntimeError("broken kernel")

    with pytest.raises(RuntimeError, match="broken kernel"):
        run_tasks(fail, _share_out(2, 1, 2), (), ())


# The operators


def make_operator_inputs(dtype=torch.float32, has_bias=True):
    inputs = {name: each.float() for name, each in make_inputs((2, 35, LANES, STATES)).items()}
    inputs.update({name: inputs[name].to(dtype) for name in ("u", "dt", "B", "C")})
    if not has_bias:
        inputs.update(dt=inputs["dt"].abs(), dt_bias=None)
    return inputs


@pytest.mark.parametrize(("dtype", "has_bias", "is_reversed", "is_held"), [
    (torch.float32, True, False, False), (torch.bfloat16, False, True, True),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_operators_pass_torchs_own_check(dtype, has_bias, is_reversed, is_held):
    inputs = make_operator_inputs(dtype, has_bias)
    leaves = [None if each is None else each.requires_grad_() for each in inputs.values()]
    torch.library.opcheck(prompted_scan_operator, (*leaves, is_reversed, is_held, True))
    plain = [None if each is None else each.detach() for each in leaves]
    y, states = prompted_scan_cpu(*plain, is_reversed, is_held, True)
    gradients = (torch.ones_like(y), states, *plain, is_reversed, is_held)
    torch.library.opcheck(prompted_scan_backward_operator, gradients)


def test_operator_takes_a_gradient_of_any_strides_and_dtype():
    inputs = make_operator_inputs(torch.bfloat16)
    y, states = prompted_scan_cpu(*inputs.values(), False, False, True)
    dy = torch.rand_like(y)
    expected = prompted_scan_cpu_backward(dy, states, *inputs.values(), False, False)
    strided = dy.mT.contiguous().mT.float()
    gradients = prompted_scan_cpu_backward(strided, states, *inputs.values(), False, False)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected, strict=True))


def test_bfloat16_output_is_the_rounded_float32_output():
    inputs = cast(make_inputs((2, 67, 32, 5)), torch.float32, torch.bfloat16)
    wide = {name: each.float() for name, each in inputs.items()}
    assert torch.equal(run(inputs, "numba"), run(wide, "numba").bfloat16())


def test_extreme_steps_stay_finite():
    inputs = cast(make_inputs((1, 40, 16, 3)), torch.float32)
    with torch.no_grad():
        inputs["dt"][:, ::2], inputs["dt"][:, 1::2] = 1e4, -1e4
    results = backpropagate(lambda each: run(each, "numba"), inputs)
    assert all(each.isfinite().all() for each in results.values())
    with torch.no_grad():
        assert relative_error(results["y"], run_oracle(cast(inputs, torch.float64))) < 1e-5


# Derivatives


INPUTS = tuple(make_inputs((1, 1, 1, 1)))


def scan(*tensors):
    return run(dict(zip(INPUTS, tensors, strict=True)), "numba")


def resume(*tensors):
    return resume_scan_cpu(None, tensors, False, False)[0]


@pytest.fixture
def leaves():
    return list(cast(make_inputs((2, 40, 16, 4)), torch.float32).values())


def test_functional_gradients_are_those_of_autograd(leaves):
    direction = torch.randn(2, 40, 16)
    expected = torch.autograd.grad(scan(*leaves), leaves, direction)
    assert all(map(torch.equal, gradients_of_func(scan, leaves, direction), expected))


def test_functional_gradient_through_another_one_is_autograds(leaves):
    u, *others = leaves

    def slope(A):
        scaled = torch.func.grad(lambda factor: (factor * scan(u, others[0], A, *others[2:])).sum())
        return scaled(torch.ones(()))

    (expected,) = torch.autograd.grad(scan(*leaves).sum(), leaves[2])
    torch.testing.assert_close(torch.func.grad(slope)(leaves[2].detach()), expected)


def test_derivatives_that_the_kernels_lack_are_an_error(leaves):
    assert_refuses_forward_mode(scan, leaves)
    assert_refuses_second_order(scan, leaves)
    with torch.no_grad():
        assert_refuses_forward_mode(resume, leaves)
