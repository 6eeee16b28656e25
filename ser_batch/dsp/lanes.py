"""Eight numbers at a time: a vector type for kernels, so that one instruction works on eight frames.

LLVM does not vectorise the loops of a Fourier transform by itself (it cannot prove that a dozen rows do not overlap),
so the kernels say what they want: `load` a row of `LANES` float32 values, add, subtract and multiply rows, `store`
them. Every processor that numba supports runs this; one with shorter vectors takes two or four instructions for each.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model
from numpy.typing import NDArray

__all__ = ["LANES", "aligned_rows", "larger", "load", "load_as", "log2", "splat", "store", "transposed", "workspace"]

LANES: Final = 8
#: Rows begin on cache lines: two of them fill one.
_LINE_BYTES: Final = 64
#: Chebyshev interpolation of log2(1 + x) / x over [0, 1], as powers of x.
_LOG2_COEFFICIENTS: Final = (1.44269298, -0.72114409, 0.47749636, -0.3383772, 0.21394321, -0.09462681, 0.02001665)


class _Lanes(types.Type):
    """The type, inside kernels, of `LANES` float32 or float64 values."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        self.vector = ir.VectorType(ir.DoubleType() if scalar is types.float64 else ir.FloatType(), LANES)
        super().__init__(name=f"Lanes({scalar})")


_SINGLE: Final = _Lanes(types.float32)
_DOUBLE: Final = _Lanes(types.float64)


def _lanes_of(scalar: Any) -> _Lanes:
    return _DOUBLE if scalar is types.float64 else _SINGLE


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, frontend_type.vector)


def aligned_rows(n_rows: int, dtype: type = np.float32) -> NDArray[Any]:
    """Return zeros, (n_rows, LANES), that begin on a cache line."""
    size = n_rows * LANES
    memory: NDArray[Any] = np.zeros(size + _LINE_BYTES, dtype)
    offset = (-memory.ctypes.data % _LINE_BYTES) // memory.itemsize
    return memory[offset : offset + size].reshape(n_rows, LANES)


_of_thread: Final = threading.local()


def workspace(n_rows: int, dtype: type = np.float32) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return two arrays (n_rows, LANES) of any content, the same ones whenever this thread asks.

    Fresh memory would cost as much as the transforms done in it: the system hands it out page by page, in zeros.
    """
    kept = _of_thread.__dict__.setdefault("arrays", {})
    if (n_rows, dtype) not in kept:
        kept[n_rows, dtype] = aligned_rows(n_rows, dtype), aligned_rows(n_rows, dtype)
    return kept[n_rows, dtype]


def _instruction(generator: Any) -> Any:
    """Make an intrinsic; type checkers would take it for a function of the typing context."""
    return intrinsic(generator)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, place: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    if array_type.ndim == 2:
        place = builder.mul(place, ir.Constant(place.type, LANES))
    return builder.bitcast(builder.gep(data, [place]), _lanes_of(array_type.dtype).vector.as_pointer())


@_instruction
def load(typing_context: Any, array: Any, place: Any) -> Any:
    """Return row `place` of an (n, LANES) array, or `LANES` values of a flat one from `place` on; unchecked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=4)

    return _lanes_of(array.dtype)(array, types.intp), generate


@_instruction
def load_as(typing_context: Any, like: Any, array: Any, place: Any) -> Any:
    """Do as `load`, but return float64 lanes of a float32 array where the array `like` holds float64."""
    wanted = _lanes_of(like.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_pointer(context, builder, signature.args[1], *arguments[1:]), align=4)
        return value if array.dtype == like.dtype else builder.fpext(value, wanted.vector)

    return wanted(like, array, types.intp), generate


@_instruction
def store(typing_context: Any, array: Any, place: Any, value: Any) -> Any:
    """Write `value` where `load` would read it; unchecked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.store(arguments[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes_of(array.dtype)), generate


@_instruction
def transposed(typing_context: Any, rows: Any) -> Any:
    """Return the columns of a square: a tuple of `LANES` vectors for a tuple of as many."""
    square = types.UniTuple(rows.dtype, LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = [builder.extract_value(arguments[0], i) for i in range(LANES)]
        apart = 1
        while apart < LANES:
            # Swap the off-diagonal blocks of size `apart` of each pair of rows.
            upper = [j if not j & apart else LANES + j - apart for j in range(LANES)]
            lower = [j + apart if not j & apart else LANES + j for j in range(LANES)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), LANES), mask) for mask in (upper, lower)]
            for i in range(LANES):
                if not i & apart:
                    pair = rows[i], rows[i + apart]
                    rows[i], rows[i + apart] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            apart *= 2
        result = ir.Constant(ir.ArrayType(square.dtype.vector, LANES), ir.Undefined)
        for i, row in enumerate(rows):
            result = builder.insert_value(result, row, i)
        return result

    return square(square), generate


@_instruction
def splat(typing_context: Any, value: Any) -> Any:
    """Return a number in all lanes, of its own type."""
    result = _lanes_of(value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        undefined = ir.Constant(result.vector, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        single = builder.insert_element(undefined, arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(single, undefined, zeros)

    return result(result.scalar), generate


@_instruction
def log2(typing_context: Any, value: Any) -> Any:
    """Return the base-2 logarithm of positive normal values, to 2e-6 or six digits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = ir.VectorType(ir.IntType(32), LANES)
        bits = builder.bitcast(arguments[0], integers)

        def integer(number: int) -> Any:
            return ir.Constant(integers, [number] * LANES)

        def real(number: float) -> Any:
            return ir.Constant(_SINGLE.vector, [number] * LANES)

        exponent = builder.sub(builder.ashr(bits, integer(23)), integer(127))
        fraction = builder.sitofp(builder.and_(bits, integer(0x7FFFFF)), _SINGLE.vector)
        fraction = builder.fmul(fraction, real(2.0**-23))
        result = real(_LOG2_COEFFICIENTS[-1])
        for coefficient in _LOG2_COEFFICIENTS[-2::-1]:
            result = builder.fmul(result, fraction, flags=("contract",))
            result = builder.fadd(result, real(coefficient), flags=("contract",))
        result = builder.fmul(result, fraction, flags=("contract",))
        return builder.fadd(result, builder.sitofp(exponent, _SINGLE.vector), flags=("contract",))

    return _SINGLE(_SINGLE), generate


@_instruction
def larger(typing_context: Any, left: Any, right: Any) -> Any:
    """Return the larger value of each lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return left(left, right), generate


def _provide(python_operator: Callable[[Any, Any], Any], instruction: str) -> None:
    """Make an operator work on lanes; multiplication and addition may be contracted to one rounding.

    By a template, so that it becomes the instruction where it stands: numba would make a function of an overload, and
    a call with a check of it, to be compiled and undone for each of the hundreds of operators in a transform.
    """

    class Template(AbstractTemplate):
        key = python_operator

        def generic(self, arguments: Any, keywords: Any) -> Any:
            if len(arguments) == 2 and isinstance(arguments[0], _Lanes) and arguments[0] == arguments[1]:
                return signature(arguments[0], *arguments)
            return None

    infer_global(python_operator)(Template)

    @lower_builtin(python_operator, _Lanes, _Lanes)
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments, flags=("contract",))


_provide(operator.add, "fadd")
_provide(operator.sub, "fsub")
_provide(operator.mul, "fmul")
