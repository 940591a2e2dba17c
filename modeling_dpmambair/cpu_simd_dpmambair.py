"""Vectors of sixteen float32 lanes for numba kernels: a register type, its arithmetic, loads and stores.

Numba's loop vectoriser stops at a recurrence, so the scan's kernels name their vectors. LLVM lowers this type to what
the machine has: one AVX-512 register, two AVX, four NEON. Loads and stores also take bfloat16, as int16 bit patterns.
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

try:
    from llvmlite import ir
    from numba import njit, types
    from numba.extending import intrinsic, models, overload, register_model
except ImportError as error:  # in a `try`, so that transformers does not make numba a requirement of the Hub's code
    raise ImportError("the fast selective scan on the processor needs numba: pip install numba") from error

LANES = 16
LN_2 = math.log(2.0)

# Minimax fits of the relative error: 2**f on [-1/2, 1/2] (9e-8), exact at 0 since most decays are near 1, and
# log1p(z) / z on [0, 1] (3e-8).
EXP2_TERMS = (1.0, 0.693146978, 0.240222421, 0.0555073374, 0.00967151264, 0.00132647272)
# erfc(x) exp(x^2) / t as a polynomial of t = 1 / (1 + 0.4 x) for x >= 0: erf to 3e-8.
ERFC_SLOPE = 0.4
ERFC_TERMS = (0.231923462, 0.161814942, 0.468295752, -0.370934772, 0.709163901, -0.200263313)
LOG1P_TERMS = (
    0.99999997, -0.499994931, 0.333190968, -0.24842982, 0.191060058, -0.136632437, 0.0782259277, -0.0295052239,
    0.00523269056,
)  # fmt: skip

_FLOAT, _INT16, _INT32 = ir.FloatType(), ir.IntType(16), ir.IntType(32)
_FLOATS, _INT16S, _INT32S = (ir.VectorType(scalar, LANES) for scalar in (_FLOAT, _INT16, _INT32))


class Float32x16(types.Type):
    """Numba type of sixteen float32 lanes held in registers."""

    def __init__(self) -> None:
        super().__init__(name="Float32x16")


@register_model(Float32x16)
class _Float32x16Model(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: types.Type) -> None:
        super().__init__(manager, numba_type, _FLOATS)


float32x16 = Float32x16()


def _constant(vector: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(vector, [ir.Constant(vector.element, value)] * LANES)


def _call(builder: ir.IRBuilder, name: str, *args: ir.Value, returns: ir.Type = _FLOATS) -> ir.Value:
    function_type = ir.FunctionType(returns, [arg.type for arg in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, function_type, name)
    return builder.call(function, args)


def _address(
    context: Any, builder: ir.IRBuilder, array_type: types.Array, array: ir.Value, index: ir.Value
) -> ir.Value:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


@intrinsic
def load(typing_context: Any, array: types.Array, index: types.Integer) -> tuple:
    """Read sixteen numbers: float32, or bfloat16 handed over as int16 bit patterns, from `array[index:]`."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        address = _address(context, builder, signature.args[0], *args)
        if signature.args[0].dtype == types.float32:
            return builder.load(builder.bitcast(address, _FLOATS.as_pointer()), align=4)
        bits = builder.load(builder.bitcast(address, _INT16S.as_pointer()), align=2)
        return builder.bitcast(builder.shl(builder.zext(bits, _INT32S), _constant(_INT32S, 16)), _FLOATS)

    return float32x16(array, types.intp), emit


@intrinsic
def store(typing_context: Any, array: types.Array, index: types.Integer, value: Float32x16) -> tuple:
    """Write sixteen numbers to `array[index:]`, rounded to nearest even where it holds bfloat16 bit patterns."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        address, lanes = _address(context, builder, signature.args[0], *args[:2]), args[2]
        if signature.args[0].dtype == types.float32:
            builder.store(lanes, builder.bitcast(address, _FLOATS.as_pointer()), align=4)
        else:
            bits = builder.bitcast(lanes, _INT32S)
            odd = builder.and_(builder.lshr(bits, _constant(_INT32S, 16)), _constant(_INT32S, 1))
            rounded = builder.add(builder.add(bits, odd), _constant(_INT32S, 0x7FFF))
            halves = builder.trunc(builder.lshr(rounded, _constant(_INT32S, 16)), _INT16S)
            builder.store(halves, builder.bitcast(address, _INT16S.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, float32x16), emit


@intrinsic
def load_scalar(typing_context: Any, array: types.Array, index: types.Integer) -> tuple:
    """Read one number of a float32 or bfloat16 (int16 bit patterns) array as float32."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        value = builder.load(_address(context, builder, signature.args[0], *args))
        if signature.args[0].dtype == types.float32:
            return value
        return builder.bitcast(builder.shl(builder.zext(value, _INT32), ir.Constant(_INT32, 16)), _FLOAT)

    return types.float32(array, types.intp), emit


@intrinsic
def store_scalar(typing_context: Any, array: types.Array, index: types.Integer, value: types.Float) -> tuple:
    """Write one number to a float32 array; like the others without numba's care for indices below zero."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), emit


@intrinsic
def splat(typing_context: Any, value: types.Float) -> tuple:
    """Repeat one float32 in all lanes."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        undefined = ir.Constant(_FLOATS, ir.Undefined)
        first = builder.insert_element(undefined, args[0], ir.Constant(_INT32, 0))
        return builder.shuffle_vector(first, undefined, _constant(_INT32S, 0))

    return float32x16(types.float32), emit


def _indices(lanes: Iterable[int]) -> ir.Constant:
    numbers = [ir.Constant(_INT32, lane) for lane in lanes]
    return ir.Constant(ir.VectorType(_INT32, len(numbers)), numbers)


@intrinsic
def add_folded(
    typing_context: Any,
    array: types.Array,
    index: types.Integer,
    w: Float32x16,
    x: Float32x16,
    y: Float32x16,
    z: Float32x16,
) -> tuple:
    """Add four vectors, each folded to four lanes, to the sixteen float32 numbers `array[index:]`: w, y, x, z."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        pairs = [_fold_together(builder, *args[2 + first : 4 + first], LANES // 2) for first in (0, 2)]
        folded = _fold_together(builder, *pairs, LANES // 4)
        place = builder.bitcast(_address(context, builder, signature.args[0], *args[:2]), _FLOATS.as_pointer())
        builder.store(builder.fadd(builder.load(place, align=4), folded), place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, float32x16, float32x16, float32x16, float32x16), emit


def _fold_together(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, width: int) -> ir.Value:
    """Add the halves of every 2 * width lanes of x and of y, into those lanes' lower and upper half.

    As x's lower beside y's upper halves, for which processors need no shuffle, plus x's upper beside y's lower.
    """
    starts = range(0, LANES, 2 * width)
    straight, crossed = [], []
    for start in starts:
        lower, upper = range(start, start + width), range(start + width, start + 2 * width)
        straight += [*lower, *(LANES + lane for lane in upper)]
        crossed += [*upper, *(LANES + lane for lane in lower)]
    return builder.fadd(*(builder.shuffle_vector(x, y, _indices(lanes)) for lanes in (straight, crossed)))


@intrinsic
def _add(typing_context: Any, x: Float32x16, y: Float32x16) -> tuple:
    return float32x16(x, y), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def _multiply(typing_context: Any, x: Float32x16, y: Float32x16) -> tuple:
    return float32x16(x, y), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def fma(typing_context: Any, x: Float32x16, y: Float32x16, z: Float32x16) -> tuple:
    """Return x * y + z, in one instruction where the machine has it."""
    return float32x16(x, y, z), lambda context, builder, signature, args: _call(builder, "llvm.fmuladd.v16f32", *args)


# Numba wants these signatures bare: it compares them with their implementations', annotations included.
@overload(operator.add)
def _overload_add(x, y):  # noqa: ANN001, ANN202
    return (lambda x, y: _add(x, y)) if isinstance(x, Float32x16) else None


@overload(operator.mul)
def _overload_multiply(x, y):  # noqa: ANN001, ANN202
    return (lambda x, y: _multiply(x, y)) if isinstance(x, Float32x16) else None


def _polynomial(builder: ir.IRBuilder, x: ir.Value, terms: Sequence[float]) -> ir.Value:
    value: ir.Value = _constant(_FLOATS, terms[-1])
    for term in terms[-2::-1]:
        value = _call(builder, "llvm.fmuladd.v16f32", value, x, _constant(_FLOATS, term))
    return value


@intrinsic
def exp2(typing_context: Any, x: Float32x16) -> tuple:
    """Raise two to the power of x, for x at most 126; below -126 the result stays 2**-126 (relative error 2e-7)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        bounded = _call(builder, "llvm.maxnum.v16f32", args[0], _constant(_FLOATS, -126.0))
        if _has_avx512(context):  # two instructions in place of the six below
            part = _mask(builder, "reduce", bounded, ir.Constant(_INT32, 0))
            return _mask(builder, "scalef", _polynomial(builder, part, EXP2_TERMS), builder.fsub(bounded, part))
        whole = _call(builder, "llvm.rint.v16f32", bounded)
        mantissa = _polynomial(builder, builder.fsub(bounded, whole), EXP2_TERMS)
        exponent = builder.shl(builder.fptosi(whole, _INT32S), _constant(_INT32S, 23))
        return builder.bitcast(builder.add(builder.bitcast(mantissa, _INT32S), exponent), _FLOATS)

    return float32x16(x), emit


def _has_avx512(context: Any) -> bool:
    return "+avx512dq" in context.codegen().magic_tuple()[2]


def _mask(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Call an AVX-512 instruction on all lanes, rounding as set."""
    rest = ir.Constant(_FLOATS, None), ir.Constant(_INT16, -1), ir.Constant(_INT32, 4)
    return _call(builder, f"llvm.x86.avx512.mask.{name}.ps.512", *args, *rest)


@intrinsic
def reciprocal(typing_context: Any, x: Float32x16) -> tuple:
    """Return 1 / x for finite x above 1e-37 (relative error 2e-7)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        one = _constant(_FLOATS, 1.0)
        if not _has_avx512(context):
            return builder.fdiv(one, args[0])
        # An estimate to fourteen bits and a step of Newton's, which do not keep the divider busy.
        rest = ir.Constant(_FLOATS, None), ir.Constant(_INT16, -1)
        estimate = _call(builder, "llvm.x86.avx512.rcp14.ps.512", args[0], *rest)
        error = _call(builder, "llvm.fmuladd.v16f32", builder.fneg(args[0]), estimate, one)
        return _call(builder, "llvm.fmuladd.v16f32", estimate, error, estimate)

    return float32x16(x), emit


@intrinsic
def exp2m1(typing_context: Any, x: Float32x16) -> tuple:
    """Two to the power of x, minus one, without cancellation near 0, for x in [-126, 126]; below it is -1."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        bounded = _call(builder, "llvm.maxnum.v16f32", args[0], _constant(_FLOATS, -126.0))
        whole = _call(builder, "llvm.rint.v16f32", bounded)
        part = builder.fsub(bounded, whole)
        small = builder.fmul(part, _polynomial(builder, part, EXP2_TERMS[1:]))
        biased = builder.add(builder.fptosi(whole, _INT32S), _constant(_INT32S, 127))
        power = builder.bitcast(builder.shl(biased, _constant(_INT32S, 23)), _FLOATS)
        # 2^(whole + part) - 1 = 2^whole (2^part - 1) + (2^whole - 1)
        return _call(builder, "llvm.fmuladd.v16f32", power, small, builder.fsub(power, _constant(_FLOATS, 1.0)))

    return float32x16(x), emit


@intrinsic
def log1p(typing_context: Any, x: Float32x16) -> tuple:
    """Logarithm of 1 + x for x in [0, 1] (relative error 3e-7)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.fmul(args[0], _polynomial(builder, args[0], LOG1P_TERMS))

    return float32x16(x), emit


@intrinsic
def _erfc_polynomial(typing_context: Any, t: Float32x16) -> tuple:
    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.fmul(args[0], _polynomial(builder, args[0], ERFC_TERMS))

    return float32x16(t), emit


@intrinsic
def copy_sign(typing_context: Any, x: Float32x16, y: Float32x16) -> tuple:
    """Give x the signs of y."""
    return float32x16(x, y), lambda context, builder, signature, args: _call(builder, "llvm.copysign.v16f32", *args)


@intrinsic
def maximum(typing_context: Any, x: Float32x16, y: Float32x16) -> tuple:
    """Take the larger of each pair of lanes."""
    return float32x16(x, y), lambda context, builder, signature, args: _call(builder, "llvm.maxnum.v16f32", *args)


@intrinsic
def where_negative(typing_context: Any, x: Float32x16, y: Float32x16, z: Float32x16) -> tuple:
    """Take y in the lanes where x is below 0, and z in the others."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: list[ir.Value]) -> ir.Value:
        is_negative = builder.fcmp_ordered("<", args[0], _constant(_FLOATS, 0.0))
        return builder.select(is_negative, *args[1:])

    return float32x16(x, y, z), emit


@intrinsic
def absolute(typing_context: Any, x: Float32x16) -> tuple:
    """Drop the signs."""
    return float32x16(x), lambda context, builder, signature, args: _call(builder, "llvm.fabs.v16f32", *args)


def kernel(function: Callable) -> Callable:
    """Compile serial code that allocates nothing, so that numba counts no references, and keep it on disk if possible.

    Where neither the installation nor the user's cache folder can be written, each process compiles anew.
    """
    try:
        return njit(nogil=True, _nrt=False, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True, _nrt=False)(function)


def inlined(function: Callable) -> Callable:
    """Compile what kernels call on vectors into each of them: a call would hand these over through memory."""
    return njit(nogil=True, forceinline=True)(function)


@inlined
def softplus(x: Float32x16) -> Float32x16:
    """Logarithm of 1 + exp(x), without overflow on either side."""
    decay = exp2(absolute(x) * splat(np.float32(-1.0 / LN_2)))
    return maximum(x, splat(np.float32(0.0))) + log1p(decay)


@inlined
def sigmoid(x: Float32x16) -> Float32x16:
    """Derivative of softplus, as exp(min(x, 0)) / (1 + exp(-|x|)): no cancellation on either side."""
    one, below = splat(np.float32(1.0)), exp2(absolute(x) * splat(np.float32(-1.0 / LN_2)))
    return where_negative(x, below, one) * reciprocal(one + below)


@inlined
def erf(x: Float32x16) -> Float32x16:
    """Error function (absolute error 1e-7)."""
    one, size = splat(np.float32(1.0)), absolute(x)
    t = reciprocal(fma(size, splat(np.float32(ERFC_SLOPE)), one))
    tail = _erfc_polynomial(t) * exp2(size * size * splat(np.float32(-1.0 / LN_2)))
    return copy_sign(one + tail * splat(np.float32(-1.0)), x)
