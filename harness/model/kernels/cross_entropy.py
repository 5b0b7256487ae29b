"""Cross-entropy of rows of logits: forward reads them once, backward replaces them by their gradient.

A program takes a row, `BLOCK` columns at a time. Rows are `V` numbers, of which the first `NUM_TRUE` count.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log_sums(
    logits,  # [R, V]
    labels,  # [R], int64: columns, all below NUM_TRUE
    log_sum,  # [R], fp32: log of the sum of exponentials
    target,  # [R], fp32: the logit in the label's column
    NUM_TRUE: tl.constexpr,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    largest = -float("inf")
    total = 0.0
    for start in range(0, NUM_TRUE, BLOCK):
        # Padding is read and dropped: V is a multiple of what one load takes, NUM_TRUE need not be.
        numbers = tl.load(logits + row * V + start + columns, mask=start + columns < V, other=0.0).to(tl.float32)
        numbers = tl.where(start + columns < NUM_TRUE, numbers, -float("inf"))
        # A number that is infinite or NaN makes the row's sum NaN, as it should: the step is then refused.
        new = tl.maximum(largest, tl.max(numbers, axis=0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(numbers - new), axis=0)
        largest = new
    tl.store(log_sum + row, largest + tl.log(total))
    tl.store(target + row, tl.load(logits + row * V + tl.load(labels + row)).to(tl.float32))


@triton.jit
def gradients(
    logits,  # [R, V]: read and overwritten
    labels,  # [R], int64
    log_sum,  # [R], fp32
    softmax_weight,  # [R], fp32
    target_weight,  # [R], fp32
    NUM_TRUE: tl.constexpr,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(labels + row)
    log = tl.load(log_sum + row)
    weight = tl.load(softmax_weight + row)
    subtracted = tl.load(target_weight + row)
    places = logits + row * V + columns
    numbers = tl.load(places, mask=columns < V, other=0.0).to(tl.float32)
    gradient = tl.exp(numbers - log) * weight - tl.where(columns == label, subtracted, 0.0)
    gradient = tl.where(columns < NUM_TRUE, gradient, 0.0)
    tl.store(places, gradient.to(logits.dtype.element_ty), mask=columns < V)
