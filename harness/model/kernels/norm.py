"""Root-mean-square normalization, alone and behind the addition of a residual: one kernel each way.

A tile is `TILE` rows of `H` numbers. A program takes `tiles` tiles one after the other, so that it reads the weight
once, and adds up its share of the weight's gradient without anybody else: the sum is the same in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows", "tiles"])
def rms_norm_forward(
    x,  # [rows, H], rows `x_stride` apart
    residual,  # [rows, H]; read where HAS_RESIDUAL
    weight,  # [H]
    total,  # [rows, H]: x + residual; written where HAS_RESIDUAL
    y,  # [rows, H]
    inverse_rms,  # [rows], fp32
    num_rows,
    x_stride,
    tiles,
    epsilon,
    H: tl.constexpr,
    WIDTH: tl.constexpr,  # H, or the next power of two
    TILE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    columns = tl.arange(0, WIDTH)
    is_column = columns < H
    w = tl.load(weight + columns, mask=is_column, other=0.0).to(tl.float32)
    first = tl.program_id(0) * tiles
    for tile in range(first, first + tiles):
        rows = (tile * TILE + tl.arange(0, TILE)).to(tl.int64)
        is_row = rows < num_rows
        inside = is_row[:, None] & is_column[None, :]
        places = rows[:, None] * H + columns[None, :]
        values = tl.load(x + rows[:, None] * x_stride + columns[None, :], mask=inside, other=0.0)
        if HAS_RESIDUAL:
            added = values.to(tl.float32) + tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
            # What is normalized is the sum as the next layer will read it, rounded.
            values = added.to(total.dtype.element_ty)
            tl.store(total + places, values, mask=inside)
        numbers = values.to(tl.float32)
        inverse = 1.0 / tl.sqrt(tl.sum(numbers * numbers, axis=1) / H + epsilon)
        tl.store(y + places, (numbers * inverse[:, None] * w[None, :]).to(y.dtype.element_ty), mask=inside)
        tl.store(inverse_rms + rows, inverse, mask=is_row)


@triton.jit(do_not_specialize=["num_rows", "tiles"])
def rms_norm_backward(
    dy,  # [rows, H]
    dtotal,  # [rows, H]: gradient of the sum from elsewhere; read where HAS_RESIDUAL
    x,  # [rows, H], rows `x_stride` apart: what was normalized
    weight,  # [H]
    inverse_rms,  # [rows], fp32
    dx,  # [rows, H]
    dweight,  # [programs, H], fp32: to be added up
    num_rows,
    x_stride,
    tiles,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    columns = tl.arange(0, WIDTH)
    is_column = columns < H
    w = tl.load(weight + columns, mask=is_column, other=0.0).to(tl.float32)
    dw = tl.zeros((WIDTH,), dtype=tl.float32)
    first = tl.program_id(0) * tiles
    for tile in range(first, first + tiles):
        rows = (tile * TILE + tl.arange(0, TILE)).to(tl.int64)
        is_row = rows < num_rows
        inside = is_row[:, None] & is_column[None, :]
        places = rows[:, None] * H + columns[None, :]
        inverse = tl.load(inverse_rms + rows, mask=is_row, other=0.0)
        numbers = tl.load(x + rows[:, None] * x_stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        normed = numbers * inverse[:, None]
        gradient = tl.load(dy + places, mask=inside, other=0.0).to(tl.float32)
        dw += tl.sum(gradient * normed, axis=0)
        scaled = gradient * w[None, :]
        along = tl.sum(scaled * normed, axis=1) / H
        change = (scaled - normed * along[:, None]) * inverse[:, None]
        if HAS_RESIDUAL:
            change += tl.load(dtotal + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + places, change.to(dx.dtype.element_ty), mask=inside)
    tl.store(dweight + tl.program_id(0) * H + columns, dw, mask=is_column)
