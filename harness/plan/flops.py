"""Floating-point operations per trained token, and the peak of a GPU to compare them with.

The headline convention (model FLOPs): a multiply-add counts 2, forward and backward together cost three times the
forward, so every weight that a token is multiplied with costs 6 per token. With h hidden size, a heads and g query
groups of size d, f MLP width, L layers, V true vocabulary, s sequence length:

    linear    = 6 * (L * (2*h*a*d + 2*h*g*d + 3*h*f) + V*h)      (2*h*f if the MLP is not gated)
    attention = 6 * L * s * a * d                                (scores and values; causal: half of the full square)

A layer whose tokens see a window of w of them has (2*w - w*w/s) in the place of s there, if w < s. A module that
predicts further tokens costs a layer like the last one, a projection of 2*h*h, and the output layer once more.

Not counted: the embedding lookup, padded vocabulary rows, norms, activations, the optimizer, and anything recomputed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from harness.config.model import ModelConfig
from harness.parameters.table import find_parameter, output_name, parameter_table
from harness.plan.gpus import find_gpu

_NUM_REMEMBERED = 16
"""Models whose sum is kept: the plan asks for it again in every phase."""
CONVENTION = "forward + backward, causal attention counted once, true vocabulary, no recompute"


def flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Return the model FLOPs per token, forward and backward, causal attention: the numerator of the headline MFU."""
    return 3 * (_forward_linear(model) + _forward_attention(model, seq_length))


def flops_per_token_full_attention(model: ModelConfig, seq_length: int) -> int:
    """Return the model FLOPs per token with attention over the full square, as many published MFU numbers count it.

    They count no windows either.
    """
    num_layers = model.num_layers + model.num_modules
    full = num_layers * _forward_attention_of_layer(model, seq_length, seq_length)
    return 3 * (_forward_linear(model) + 2 * full)


def hardware_flops_per_token(
    model: ModelConfig, seq_length: int, recompute: Literal["none", "selective", "full"]
) -> int:
    """Return the FLOPs per token that the hardware executes: the numerator of HFU, causal attention.

    Flash attention computes the scores again in backward (5 matrix products against 2 in forward). `selective` computes
    no product again, `full` the whole forward of every layer, but not the output layer.
    """
    attention = _forward_attention(model, seq_length)
    executed = 3 * _forward_linear(model) + attention * 7 // 2
    if recompute == "full":
        in_layers = (
            parameter for parameter in parameter_table(model) if parameter.layer is not None or parameter.part == "mtp"
        )
        return executed + attention + 2 * sum(parameter.num_multiplied for parameter in in_layers)
    return executed


def peak_flops(device_name: str) -> float | None:
    """Return the peak dense bf16 FLOP/s of a GPU by the name that torch reports, or None if it is unknown."""
    gpu = find_gpu(device_name)
    return gpu.peak_flops if gpu else None


@lru_cache(maxsize=_NUM_REMEMBERED)
def _forward_linear(model: ModelConfig) -> int:
    """Forward FLOPs per token of all weight products, the output layer included."""
    once = sum(parameter.num_multiplied for parameter in parameter_table(model))
    in_modules = model.num_modules * find_parameter(output_name(model), model).num_multiplied
    return 2 * (once + in_modules)


def _forward_attention(model: ModelConfig, seq_length: int) -> int:
    """Return the forward FLOPs per token of scores and values under a causal mask (half of `4 * L * s * a * d`)."""
    layers = range(model.num_layers + model.num_modules)
    of_layers = (model.window_size if model.has_window(layer) else None for layer in layers)
    return sum(_forward_attention_of_layer(model, seq_length, window or seq_length) for window in of_layers)


def _forward_attention_of_layer(model: ModelConfig, seq_length: int, window: int) -> int:
    seen = min(window, seq_length)
    # Twice the tokens that one sees on average: w, but fewer for the first w of a sample.
    twice_seen = 2 * seen - seen * seen / seq_length
    return round(2 * twice_seen * model.num_attention_heads * model.head_size)
