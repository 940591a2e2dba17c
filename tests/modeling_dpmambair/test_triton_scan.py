"""The Triton kernels: interpreted on the CPU, compiled for cards that are absent, and on a card where there is one.

Triton decides at its import whether it interprets, so those tests run in a process of their own.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from modeling_dpmambair import ScanPrompts, scan_backend
from modeling_dpmambair.selective_scan_dpmambair import prompted_selective_scan, resume_selective_scan
from tests.modeling_dpmambair.derivatives import assert_refuses_forward_mode, assert_refuses_second_order
from tests.modeling_dpmambair.scanning import (
    SEQUENCES,
    SHAPES,
    assert_close,
    backpropagate,
    cast,
    make_inputs,
    relative_error,
    run,
    run_oracle,
)

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from modeling_dpmambair import triton_scan_dpmambair as scanning  # noqa: E402
from modeling_dpmambair import triton_scan_kernels_dpmambair as kernels  # noqa: E402

IS_INTERPRETED = scanning.is_interpreted()
interpreted = pytest.mark.skipif(not IS_INTERPRETED, reason="runs in a process of its own, with TRITON_INTERPRET=1")
INPUTS = tuple(make_inputs((1, 1, 1, 1)))
HALVES = {torch.float16: 2**-10, torch.bfloat16: 2**-7}


@pytest.fixture(autouse=IS_INTERPRETED)
def short_chunks(monkeypatch):
    """Cut even the interpreter's short sequences into chunks, more than the carry takes at once."""
    monkeypatch.setattr(scanning, "CHUNK", 8)
    monkeypatch.setattr(scanning, "CARRY_GROUP", 2)


def scan(*tensors):
    return run(dict(zip(INPUTS, tensors, strict=True)), "triton")


def check_scan(inputs, tolerance, **options):
    """Compare the output and all gradients with the loop in float64 on the same numbers, and their dtypes."""
    results = backpropagate(lambda each: run(each, "triton", **options), inputs)
    exact = {name: each.detach().cpu().double().requires_grad_() for name, each in inputs.items()}
    expected = backpropagate(lambda each: run_oracle(each, **options), exact)
    assert_close({name: each.cpu() for name, each in results.items()}, expected, tolerance)
    assert {name: results[name].dtype for name in inputs} == {name: each.dtype for name, each in inputs.items()}
    assert results["y"].dtype == inputs["u"].dtype


def check_resumption(inputs, tolerance, **options):
    """Scan in three parts, handing the state on, and compare with the scan of the whole."""
    prompts = ScanPrompts(inputs["alpha_delta"], inputs["alpha_B"], inputs["alpha_C"])
    cuts = [slice(0, 1), slice(1, 12), slice(12, None)]
    state, parts = None, []
    with scan_backend("triton"), torch.no_grad():
        for cut in reversed(cuts) if options["is_reversed"] else cuts:
            u, dt, B, C = (inputs[name][:, cut] for name in SEQUENCES)
            weights = {"dt_bias": inputs["dt_bias"], "prompts": prompts, **options}
            y, state = resume_selective_scan(u, dt, inputs["A"], B, C, inputs["D"], state=state, **weights)
            parts.append(y)
        whole = run(inputs, "triton", **options)
    assert state.shape == (len(inputs["u"]), *inputs["A"].shape)
    assert relative_error(torch.cat(parts[::-1] if options["is_reversed"] else parts, 1), whole) < tolerance


# In Triton's interpreter


@pytest.mark.slow
def test_kernels_agree_with_the_loop_in_tritons_interpreter():
    if IS_INTERPRETED:
        pytest.skip("already in that process")
    here = Path(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", str(here)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here.parents[2])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 8


@interpreted
@pytest.mark.parametrize("is_reversed", [False, True], ids=["forward", "reversed"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 19, 5, 3)], ids=lambda shape: "x".join(map(str, shape)))
def test_interpreted_scan_and_gradients_agree_with_the_float64_loop(shape, is_reversed):
    check_scan(cast(make_inputs(shape), torch.float32), 2e-6, is_reversed=is_reversed)


@interpreted
@pytest.mark.parametrize("dtype", list(HALVES), ids=str)
def test_interpreted_half_precision_stays_within_its_rounding(dtype):
    check_scan(cast(make_inputs((1, 9, 34, 2)), torch.float32, dtype), HALVES[dtype])


@interpreted
def test_interpreted_scan_takes_slices_of_one_projection_and_mixed_dtypes():
    inputs = cast(make_inputs((2, 9, 3, 2)), torch.float32)
    matrices = torch.cat([inputs["B"], inputs["C"]], -1).detach()
    inputs.update(B=matrices[..., :2].requires_grad_(), C=matrices[..., 2:].requires_grad_())
    inputs["dt"] = inputs["dt"].detach().bfloat16().requires_grad_()
    check_scan(inputs, 2**-8)


@interpreted
@pytest.mark.parametrize("is_reversed", [False, True], ids=["forward", "reversed"])
def test_interpreted_scan_resumed_from_its_state_is_the_scan_of_the_whole(is_reversed):
    inputs = {name: each.float() for name, each in make_inputs((2, 21, 3, 2)).items()}
    check_resumption(inputs, 1e-6, is_reversed=is_reversed)


@interpreted
def test_interpreted_scan_without_prompts_agrees_with_the_one_with_unit_prompts():
    inputs = {name: each.float() for name, each in make_inputs((1, 9, 3, 2)).items()}
    expected = scan(*inputs.values())
    delta = torch.nn.functional.softplus(inputs["dt"] + inputs["dt_bias"]) * inputs["alpha_delta"][:, None]
    B, C = (inputs[name] * inputs[f"alpha_{name}"][:, None] for name in ("B", "C"))
    ones = (torch.ones_like(inputs[name]) for name in ("alpha_delta", "alpha_B", "alpha_C"))
    plain = (inputs["u"], delta, inputs["A"], B, C, inputs["D"], None, *ones)
    y, _ = scanning.prompted_scan_triton(*plain, False)
    assert relative_error(y, expected) < 1e-6
    torch.library.opcheck(scanning.prompted_scan_operator, (*plain, False), test_utils="test_faketensor")


@interpreted
def test_interpreted_derivatives_that_the_kernels_lack_are_an_error():
    leaves = list(cast(make_inputs((1, 3, 2, 2)), torch.float32).values())
    assert_refuses_forward_mode(scan, leaves)
    assert_refuses_second_order(scan, leaves)


@interpreted
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_interpreted_operators_pass_torchs_own_check():
    leaves = list(cast(make_inputs((1, 3, 2, 2)), torch.float32).values())
    torch.library.opcheck(scanning.prompted_scan_operator, (*leaves, True))
    plain = [each.detach() for each in leaves]
    y, states = scanning.prompted_scan_triton(*plain, False)
    torch.library.opcheck(scanning.prompted_scan_backward_operator, (torch.ones_like(y), states, *plain, False))


# Compiled for cards that are not here

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SEQUENCE_ARGUMENTS = {"u", "dt", "B", "C", "y", "dy", "by_u", "by_dt", "x", "matrix"}


def compile_kernel(kernel, target, warps, **constants):
    """Compile a kernel as it is launched on bfloat16 sequences."""

    def type_of(name):
        if name in constants:
            return "constexpr"
        return "i32" if name in kernels.SIZES else "*bf16" if name in SEQUENCE_ARGUMENTS else "*fp32"

    signature = {name: type_of(name) for name in kernel.arg_names}
    return triton.compile(ASTSource(kernel, signature, constants), target=target, options={"num_warps": warps})


def describe_registers(compiled):
    """Return the registers of a thread and the bytes or registers that it spills."""
    if "amdgcn" in compiled.asm:
        found = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", compiled.asm["amdgcn"]))
        return int(found["vgpr_count"]), int(found["vgpr_spill_count"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return tuple(int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK"))


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="nothing compiles in the interpreter")
@pytest.mark.parametrize("states", [8, 32], ids=["light", "base"])
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile_without_spills_for_cards_that_are_absent(capsys, target, states):
    sizes = {"CHUNK": scanning.CHUNK, "D_BLOCK": scanning.D_BLOCK, "N_BLOCK": states}
    carry = {"BLOCK": scanning.CARRY_BLOCK, "GROUP": scanning.CARRY_GROUP, "IS_BACKWARDS": True}
    warps = scanning.count_backward_warps(states)
    jobs = {
        "summarize_chunks": (1, {**sizes, "IS_REVERSED": False, "IS_ADJOINT": False}),
        "carry_states": (1, carry),
        "scan_chunks": (1, {**sizes, "IS_REVERSED": True}),
        "backpropagate_chunks": (warps, {**sizes, "PART": scanning.PART, "IS_REVERSED": True}),
    }
    for name, (count, constants) in jobs.items():
        compiled = compile_kernel(getattr(kernels, name), TARGETS[target], count, **constants)
        registers, spills = describe_registers(compiled)
        with capsys.disabled():
            print(f"\n{target}, N = {states}, {name}: {registers} registers, {spills} spilled", end="")
        assert spills <= 16


@pytest.mark.skipif(IS_INTERPRETED, reason="nothing compiles in the interpreter")
@pytest.mark.parametrize("name", ["summarize_chunks", "carry_states", "scan_chunks", "backpropagate_chunks"])
def test_no_argument_makes_triton_compile_a_kernel_anew(name):
    arguments = [one for one in getattr(kernels, name).params if not one.is_constexpr]
    ours = [one for one in arguments if one.do_not_specialize or one.do_not_specialize_on_alignment]
    assert [one.name for one in ours] == [one.name for one in arguments]


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="nothing compiles in the interpreter")
def test_kernels_compile_where_nothing_is_added_to_the_step():
    # Triton makes a constant of None, as no interpreter does.
    sizes = {"CHUNK": scanning.CHUNK, "D_BLOCK": scanning.D_BLOCK, "N_BLOCK": 1, "dt_bias": None, "IS_REVERSED": True}
    compile_kernel(kernels.summarize_chunks, TARGETS["sm_90"], 1, **sizes, IS_ADJOINT=True)
    compile_kernel(kernels.scan_chunks, TARGETS["sm_90"], 1, **sizes)
    compile_kernel(kernels.backpropagate_chunks, TARGETS["sm_90"], 1, **sizes, PART=scanning.PART)


# On a card


def on_card(inputs):
    return {name: each.detach().cuda().requires_grad_() for name, each in inputs.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("is_reversed", [False, True], ids=["forward", "reversed"])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 1030, 96, 8), (1, 700, 40, 32)], ids=str)
def test_scan_and_gradients_on_a_card_agree_with_the_float64_loop(shape, is_reversed):
    # The card's exponential is right to 2^-22, and thousands of steps multiply it.
    check_scan(on_card(cast(make_inputs(shape), torch.float32)), 3e-5, is_reversed=is_reversed)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(HALVES), ids=str)
def test_half_precision_on_a_card_stays_within_its_rounding(dtype):
    check_scan(on_card(cast(make_inputs((2, 150, 34, 8)), torch.float32, dtype)), 2 * HALVES[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("is_reversed", [False, True], ids=["forward", "reversed"])
def test_scan_resumed_on_a_card_is_the_scan_of_the_whole(is_reversed):
    inputs = {name: each.float().cuda() for name, each in make_inputs((2, 300, 40, 8)).items()}
    check_resumption(inputs, 1e-5, is_reversed=is_reversed)


@pytest.mark.gpu
def test_kernels_are_compiled_once_for_all_sizes_and_alignments():
    def count_compiled():
        names = ("summarize_chunks", "carry_states", "scan_chunks", "backpropagate_chunks")
        return [len(getattr(kernels, name).device_caches[torch.cuda.current_device()][0]) for name in names]

    def scan_once(shape, start):
        # Rows that begin within an array of one sequence more.
        inputs = {name: each.detach() for name, each in on_card(cast(make_inputs(shape), torch.float32)).items()}
        inputs |= {name: F.pad(inputs[name], (0, 0, start, 0))[:, start:] for name in SEQUENCES}
        backpropagate(lambda each: run(each, "triton"), {name: x.requires_grad_() for name, x in inputs.items()})

    scan_once((2, 160, 32, 8), 0)
    compiled = count_compiled()
    for shape in ((1, 1, 32, 8), (3, 161, 33, 7), (2, 48, 48, 8)):
        scan_once(shape, 1)
    assert count_compiled() == compiled


@pytest.mark.gpu
def test_same_inputs_give_the_same_bits_on_a_card():
    inputs = on_card(cast(make_inputs((2, 500, 96, 8)), torch.float32))
    first, second = (backpropagate(lambda each: run(each, "triton"), inputs) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
def test_compiled_program_on_a_card_gives_the_same_bits():
    u, dt, A, B, C, D, dt_bias, *alphas = (each.float().cuda() for each in make_inputs((2, 150, 40, 8)).values())
    arguments = {"dt_bias": dt_bias, "prompts": ScanPrompts(*alphas)}
    compiled = torch.compile(prompted_selective_scan, fullgraph=True, backend="aot_eager")
    with scan_backend("triton"):
        expected = prompted_selective_scan(u, dt, A, B, C, D, **arguments)
        assert torch.equal(compiled(u, dt, A, B, C, D, **arguments), expected)
