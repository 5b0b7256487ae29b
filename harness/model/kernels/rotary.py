"""Rotary embedding: the cut of the QKV projection into rotated queries, rotated keys and values, in one kernel.

A row is a token of a sample. Of its `GROUPS` groups each has `SHARES` heads of queries, one of keys, one of values,
in this order, each of `2·HALF` numbers. The first half of a head is rotated against the second. `BACK` turns by the
opposite angle and joins what was cut: it is the backward pass.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _turned(first, second, cos, sin, BACK: tl.constexpr):
    if BACK:
        sin = -sin
    return first * cos - second * sin, second * cos + first * sin


@triton.jit(do_not_specialize=["rows_per_position", "num_heads"])
def rotate(
    x,  # [rows, heads, 2·HALF]
    y,  # the same
    cos,  # [positions, HALF], fp32
    sin,
    rows_per_position,
    num_heads,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,  # HALF, or the next power of two
    HEADS: tl.constexpr,  # heads taken at once, a power of two
    BACK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    angles = row // rows_per_position * HALF + columns
    c = tl.load(cos + angles, mask=columns < HALF, other=0.0)[None, :]
    s = tl.load(sin + angles, mask=columns < HALF, other=0.0)[None, :]
    for start in range(0, num_heads, HEADS):
        heads = start + tl.arange(0, HEADS)
        inside = (heads < num_heads)[:, None] & (columns < HALF)[None, :]
        places = (row * num_heads + heads)[:, None] * (2 * HALF) + columns[None, :]
        first = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(x + places + HALF, mask=inside, other=0.0).to(tl.float32)
        first, second = _turned(first, second, c, s, BACK)
        tl.store(y + places, first.to(y.dtype.element_ty), mask=inside)
        tl.store(y + places + HALF, second.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows_per_position", "num_positions"])
def split_and_rotate(
    mixed,  # [rows, GROUPS, SHARES + 2, 2·HALF]
    query,  # [rows, GROUPS·SHARES, 2·HALF]
    key,  # [rows, GROUPS, 2·HALF]
    value,  # [rows, GROUPS, 2·HALF]
    cos,  # [positions, HALF], fp32
    sin,
    rows_per_position,  # samples; positions come one after the other, in each all samples
    num_positions,
    GROUPS: tl.constexpr,
    SHARES: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,  # HALF, or the next power of two
    HEADS: tl.constexpr,  # SHARES + 2, or the next power of two
    BY_SAMPLE: tl.constexpr,  # queries, keys and values: one sample after the other, in each all positions
    BACK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    position = row // rows_per_position
    cut = row  # the row among what was cut
    if BY_SAMPLE:
        cut = row % rows_per_position * num_positions + position
    columns = tl.arange(0, WIDTH)
    is_column = (columns < HALF)[None, :]
    angles = position * HALF + columns
    c = tl.load(cos + angles, mask=columns < HALF, other=0.0)[None, :]
    s = tl.load(sin + angles, mask=columns < HALF, other=0.0)[None, :]
    heads = tl.arange(0, HEADS)
    is_query = (heads < SHARES)[:, None] & is_column
    is_key = (heads == SHARES)[:, None] & is_column
    is_value = (heads == SHARES + 1)[:, None] & is_column
    is_any = is_query | is_key | is_value
    c = tl.where(is_value, 1.0, c)
    s = tl.where(is_value, 0.0, s)
    for group in range(GROUPS):
        whole = ((row * GROUPS + group) * (SHARES + 2) + heads)[:, None] * (2 * HALF) + columns[None, :]
        # Heads that are no queries point outside of the queries, and are never read or written there.
        own = ((cut * GROUPS + group) * SHARES + heads)[:, None] * (2 * HALF) + columns[None, :]
        shared = ((cut * GROUPS + group) + 0 * heads)[:, None] * (2 * HALF) + columns[None, :]
        if BACK:
            first = (
                tl.load(query + own, mask=is_query, other=0.0).to(tl.float32)
                + tl.load(key + shared, mask=is_key, other=0.0).to(tl.float32)
                + tl.load(value + shared, mask=is_value, other=0.0).to(tl.float32)
            )
            second = (
                tl.load(query + own + HALF, mask=is_query, other=0.0).to(tl.float32)
                + tl.load(key + shared + HALF, mask=is_key, other=0.0).to(tl.float32)
                + tl.load(value + shared + HALF, mask=is_value, other=0.0).to(tl.float32)
            )
        else:
            first = tl.load(mixed + whole, mask=is_any, other=0.0).to(tl.float32)
            second = tl.load(mixed + whole + HALF, mask=is_any, other=0.0).to(tl.float32)
        first, second = _turned(first, second, c, s, BACK)
        first = first.to(mixed.dtype.element_ty)
        second = second.to(mixed.dtype.element_ty)
        if BACK:
            tl.store(mixed + whole, first, mask=is_any)
            tl.store(mixed + whole + HALF, second, mask=is_any)
        else:
            tl.store(query + own, first, mask=is_query)
            tl.store(query + own + HALF, second, mask=is_query)
            tl.store(key + shared, first, mask=is_key)
            tl.store(key + shared + HALF, second, mask=is_key)
            tl.store(value + shared, first, mask=is_value)
            tl.store(value + shared + HALF, second, mask=is_value)
