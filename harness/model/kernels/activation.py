"""Activations of the MLP, gated or not: one kernel each way, one program for a block of a row.

Gated: x is `[rows, 2·F]`, the gate in front of what it is multiplied with. Not gated: x is `[rows, F]`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _value_and_slope(x, KIND: tl.constexpr):
    """Return the function at x and its derivative.

    KIND: 0 for SiLU, 1 for the exact GELU, 2 for its tanh approximation, 3 for the squared ReLU, 4 for gpt-oss's
    steeper SiLU of what is at most 7.
    """
    if KIND == 0:
        sigmoid = 1.0 / (1.0 + tl.exp(-x))
        return x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))
    elif KIND == 1:
        below = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))  # of a standard normal variable
        return x * below, below + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif KIND == 2:
        # (1 + tanh z) / 2 is the sigmoid of 2z. Beyond 80 it is 0 in fp32, and its exponential would be infinite.
        square = x * x
        below = 1.0 / (1.0 + tl.exp(tl.minimum(-1.5957691216057308 * x * (1.0 + 0.044715 * square), 80.0)))
        bend = 1.5957691216057308 * x * (1.0 + 0.134145 * square)
        return x * below, below + below * (1.0 - below) * bend
    elif KIND == 3:
        positive = tl.maximum(x, 0.0)
        return positive * positive, 2.0 * positive
    else:
        bounded = tl.minimum(x, 7.0)
        sigmoid = 1.0 / (1.0 + tl.exp(-1.702 * bounded))
        slope = sigmoid * (1.0 + 1.702 * bounded * (1.0 - sigmoid))
        return bounded * sigmoid, tl.where(x <= 7.0, slope, 0.0)


@triton.jit
def _factor_and_slope(x, KIND: tl.constexpr):
    """Return what the gate is multiplied with, made of x, and its derivative: x itself, but for gpt-oss (KIND 4)."""
    if KIND == 4:
        return tl.minimum(tl.maximum(x, -7.0), 7.0) + 1.0, tl.where(tl.abs(x) <= 7.0, 1.0, 0.0)
    else:
        return x, tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def activation_forward(x, y, F: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < F
    source = x + row * F * (2 if GATED else 1) + columns
    value, _ = _value_and_slope(tl.load(source, mask=inside, other=0.0).to(tl.float32), KIND)
    if GATED:
        factor, _ = _factor_and_slope(tl.load(source + F, mask=inside, other=0.0).to(tl.float32), KIND)
        value *= factor
    tl.store(y + row * F + columns, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def activation_backward(dy, x, dx, F: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < F
    place = row * F * (2 if GATED else 1) + columns
    gradient = tl.load(dy + row * F + columns, mask=inside, other=0.0).to(tl.float32)
    value, slope = _value_and_slope(tl.load(x + place, mask=inside, other=0.0).to(tl.float32), KIND)
    if GATED:
        factor, of_factor = _factor_and_slope(tl.load(x + place + F, mask=inside, other=0.0).to(tl.float32), KIND)
        tl.store(dx + place + F, (gradient * value * of_factor).to(dx.dtype.element_ty), mask=inside)
        gradient *= factor
    tl.store(dx + place, (gradient * slope).to(dx.dtype.element_ty), mask=inside)
