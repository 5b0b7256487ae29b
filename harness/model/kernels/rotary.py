"""Rotary embedding: the cut of the QKV projection into rotated queries, rotated keys and values, in one kernel.

A row is a token of a sample. Of its `GROUPS` groups each has `SHARES` heads of queries, one of keys, one of values,
in this order, each of `2·HALF` numbers. The first half of a head is rotated against the second. The backward pass turns
by the opposite angle, and joins what was cut.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _turned(first, second, cos, sin):
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def _angles(cos, sin, position, HALF: tl.constexpr, WIDTH: tl.constexpr):
    """Return cosines and sines of a position, [1, WIDTH] each."""
    columns = tl.arange(0, WIDTH)
    places, inside = position * HALF + columns, columns < HALF
    return (
        tl.load(cos + places, mask=inside, other=0.0)[None, :],
        tl.load(sin + places, mask=inside, other=0.0)[None, :],
    )


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
    c, s = _angles(cos, sin, row // rows_per_position, HALF, WIDTH)
    if BACK:
        s = -s
    for start in range(0, num_heads, HEADS):
        heads = start + tl.arange(0, HEADS)
        inside = (heads < num_heads)[:, None] & (columns < HALF)[None, :]
        places = (row * num_heads + heads)[:, None] * (2 * HALF) + columns[None, :]
        first = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(x + places + HALF, mask=inside, other=0.0).to(tl.float32)
        first, second = _turned(first, second, c, s)
        tl.store(y + places, first.to(y.dtype.element_ty), mask=inside)
        tl.store(y + places + HALF, second.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _cut_row(row, rows_per_position, num_positions, BY_SAMPLE: tl.constexpr):
    """Return where a row of the projection is among queries, keys and values.

    In the projection positions come one after the other, in each all samples. With BY_SAMPLE it is the other way round
    there.
    """
    if BY_SAMPLE:
        row = row % rows_per_position * num_positions + row // rows_per_position
    return row


@triton.jit(do_not_specialize=["rows_per_position", "num_positions"])
def split_and_rotate(
    mixed,  # [rows, GROUPS, SHARES + 2, 2·HALF]
    query,  # [rows, GROUPS·SHARES, 2·HALF]
    key,  # [rows, GROUPS, 2·HALF]
    value,  # [rows, GROUPS, 2·HALF]
    cos,  # [positions, HALF], fp32
    sin,
    rows_per_position,  # samples
    num_positions,
    GROUPS: tl.constexpr,
    SHARES: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,  # HALF, or the next power of two
    HEADS: tl.constexpr,  # SHARES + 2, or the next power of two
    BY_SAMPLE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cut = _cut_row(row, rows_per_position, num_positions, BY_SAMPLE)
    c, s = _angles(cos, sin, row // rows_per_position, HALF, WIDTH)
    heads, columns = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = (heads < SHARES + 2) & (columns < HALF)
    is_query, is_key, is_value = inside & (heads < SHARES), inside & (heads == SHARES), inside & (heads == SHARES + 1)
    for group in range(GROUPS):
        whole = mixed + ((row * GROUPS + group) * (SHARES + 2) + heads) * (2 * HALF) + columns
        old_first = tl.load(whole, mask=inside, other=0.0)
        old_second = tl.load(whole + HALF, mask=inside, other=0.0)
        first, second = _turned(old_first.to(tl.float32), old_second.to(tl.float32), c, s)
        first, second = first.to(mixed.dtype.element_ty), second.to(mixed.dtype.element_ty)
        # Lanes of other heads point outside of the queries, and are masked there.
        own = query + ((cut * GROUPS + group) * SHARES + heads) * (2 * HALF) + columns
        shared = (cut * GROUPS + group) * (2 * HALF) + columns + 0 * heads
        tl.store(own, first, mask=is_query)
        tl.store(own + HALF, second, mask=is_query)
        tl.store(key + shared, first, mask=is_key)
        tl.store(key + shared + HALF, second, mask=is_key)
        tl.store(value + shared, old_first, mask=is_value)
        tl.store(value + shared + HALF, old_second, mask=is_value)


@triton.jit(do_not_specialize=["rows_per_position", "num_positions"])
def rotate_back_and_join(
    mixed,  # as in `split_and_rotate`, of gradients
    query,
    key,
    value,
    cos,
    sin,
    rows_per_position,
    num_positions,
    GROUPS: tl.constexpr,
    SHARES: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    BY_SAMPLE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cut = _cut_row(row, rows_per_position, num_positions, BY_SAMPLE)
    c, s = _angles(cos, sin, row // rows_per_position, HALF, WIDTH)
    heads, columns = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = (heads < SHARES + 2) & (columns < HALF)
    is_query, is_key, is_value = inside & (heads < SHARES), inside & (heads == SHARES), inside & (heads == SHARES + 1)
    # Values were not turned.
    c, s = tl.where(is_value, 1.0, c), tl.where(is_value, 0.0, -s)
    for group in range(GROUPS):
        own = query + ((cut * GROUPS + group) * SHARES + heads) * (2 * HALF) + columns
        shared = (cut * GROUPS + group) * (2 * HALF) + columns + 0 * heads
        first = (
            tl.load(own, mask=is_query, other=0.0).to(tl.float32)
            + tl.load(key + shared, mask=is_key, other=0.0).to(tl.float32)
            + tl.load(value + shared, mask=is_value, other=0.0).to(tl.float32)
        )
        second = (
            tl.load(own + HALF, mask=is_query, other=0.0).to(tl.float32)
            + tl.load(key + shared + HALF, mask=is_key, other=0.0).to(tl.float32)
            + tl.load(value + shared + HALF, mask=is_value, other=0.0).to(tl.float32)
        )
        first, second = _turned(first, second, c, s)
        whole = mixed + ((row * GROUPS + group) * (SHARES + 2) + heads) * (2 * HALF) + columns
        tl.store(whole, first.to(mixed.dtype.element_ty), mask=inside)
        tl.store(whole + HALF, second.to(mixed.dtype.element_ty), mask=inside)
