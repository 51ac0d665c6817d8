"""Small matrix products inside compiled loops, at the speed of a BLAS: numba, one intrinsic.

A tile of the product stays in registers while its rows and columns stream by. numba's own loops cannot say that (they
reach half of it on CPUs with AVX-512), and calls of a BLAS from a loop bring threads of their own, which on a busy CPU
wait for each other most of the time.
"""

from __future__ import annotations

import platform

import numba
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

COLUMN_STEP = 32
"""Columns of a product are a multiple of it, for every CPU."""
ROW_STEP = 8
"""And its rows."""
VECTORS = 2


def _tile(machine: str, features: str) -> tuple[int, int]:
    """(lanes of a vector, rows of a tile) that fit into the registers of a CPU."""
    if "+avx512f" in features.split(","):
        return 16, 8
    # x86 has 16 registers of 8 lanes, ARM 32 of 4.
    return (4, 8) if machine in ("aarch64", "arm64") else (8, 4)


LANES, TILE_ROWS = _tile(platform.machine(), binding.get_host_cpu_features().flatten())

# mypy: disable-error-code="no-untyped-def"
# numba infers the types of everything below.


@intrinsic
def _multiply_tile(typingctx, x, w, y, row, column):
    """y[row : row + TILE_ROWS, column : column + VECTORS * LANES] of y = x w, all float32 and C-contiguous."""

    def codegen(context, builder, signature, arguments):
        vector, number = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        xs, ws, ys = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
        )
        rows = [builder.add(arguments[3], context.get_constant(types.intp, r)) for r in range(TILE_ROWS)]
        columns = [builder.add(arguments[4], context.get_constant(types.intp, v * LANES)) for v in range(VECTORS)]

        def place(array, i, j):
            shape, strides = (cgutils.unpack_tuple(builder, part, 2) for part in (array.shape, array.strides))
            return cgutils.get_item_pointer2(context, builder, array.data, shape, strides, "C", [i, j])

        def vectors(array, i, j):
            return builder.bitcast(place(array, i, j), vector.as_pointer())

        zero, none = ir.Constant(vector, None), ir.Constant(vector, ir.Undefined)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in columns] for _ in rows]
        begins = [place(xs, r, context.get_constant(types.intp, 0)) for r in rows]
        lanes = ir.Constant(ir.VectorType(number, LANES), [0] * LANES)
        with cgutils.for_range(builder, cgutils.unpack_tuple(builder, xs.shape, 2)[1]) as loop:
            weights = [builder.load(vectors(ws, loop.index, column)) for column in columns]
            for weight in weights:
                weight.align = 4
            for begin, found in zip(begins, sums, strict=True):
                value = builder.load(builder.gep(begin, [loop.index]))
                value = builder.insert_element(none, value, ir.Constant(number, 0))
                value = builder.shuffle_vector(value, none, lanes)
                for weight, total in zip(weights, found, strict=True):
                    product = builder.fmul(value, weight, flags=("contract",))
                    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        for r, found in zip(rows, sums, strict=True):
            for column, total in zip(columns, found, strict=True):
                builder.store(builder.load(total), vectors(ys, r, column)).align = 4
        return context.get_dummy_value()

    return types.void(x, w, y, types.intp, types.intp), codegen


@numba.njit(nogil=True, cache=True)
def multiply(x, w, y, rows):
    """The first rows of y (N, O) = x (N, I) w (I, O), float32, C-contiguous.

    rows is rounded up to a multiple of ROW_STEP, which x and y must have; O is a multiple of COLUMN_STEP.
    """
    for column in range(0, w.shape[1], VECTORS * LANES):
        for row in range(0, rows, TILE_ROWS):
            _multiply_tile(x, w, y, row, column)
