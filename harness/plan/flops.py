"""Floating-point operations per trained token, and the peak of a GPU to compare them with.

The headline convention (model FLOPs): a multiply-add counts 2, forward and backward together cost three times the
forward, so every weight that a token is multiplied with costs 6 per token. With h hidden size, a heads and g query
groups of size d, f MLP width, L layers, V true vocabulary, s sequence length:

    linear    = 6 * (L * (2*h*a*d + 2*h*g*d + 3*h*f) + V*h)      (2*h*f if the MLP is not gated)
    attention = 6 * L * s * a * d                                (scores and values; causal: half of the full square)

With latent attention the linear part has the projections of latents in place of q, k and v, and values have heads of
another size than queries and keys: `attention = 3 * L * s * a * (d + v)`.

Not counted: the embedding lookup, padded vocabulary rows, norms, activations, the optimizer, and anything recomputed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from harness.config.model import ModelConfig
from harness.parameters.table import parameter_table
from harness.plan.gpus import find_gpu

_NUM_REMEMBERED = 16
"""Models whose sum is kept: the plan asks for it again in every phase."""
CONVENTION = "forward + backward, causal attention counted once, true vocabulary, no recompute"


def flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Return the model FLOPs per token, forward and backward, causal attention: the numerator of the headline MFU."""
    return 3 * (_forward_linear(model) + _forward_attention(model, seq_length))


def flops_per_token_full_attention(model: ModelConfig, seq_length: int) -> int:
    """Return the model FLOPs per token with attention over the full square, as many published MFU numbers count it."""
    return 3 * (_forward_linear(model) + 2 * _forward_attention(model, seq_length))


def hardware_flops_per_token(
    model: ModelConfig, seq_length: int, recompute: Literal["none", "selective", "full"]
) -> int:
    """Return the FLOPs per token that the hardware executes: the numerator of HFU, causal attention.

    Values are as wide as queries and keys there, filled up with zeros (`harness.model.latent`).
    Flash attention computes the scores again in backward (5 matrix products against 2 in forward). `selective` computes
    no product again, `full` the whole forward of every layer, but not the output layer.
    """
    attention = _executed_attention(model, seq_length)
    executed = 3 * _forward_linear(model) + attention * 7 // 2
    if recompute == "full":
        in_layers = (parameter for parameter in parameter_table(model) if parameter.layer is not None)
        return executed + attention + 2 * sum(parameter.num_multiplied for parameter in in_layers)
    return executed


def peak_flops(device_name: str) -> float | None:
    """Return the peak dense bf16 FLOP/s of a GPU by the name that torch reports, or None if it is unknown."""
    gpu = find_gpu(device_name)
    return gpu.peak_flops if gpu else None


@lru_cache(maxsize=_NUM_REMEMBERED)
def _forward_linear(model: ModelConfig) -> int:
    """Forward FLOPs per token of all weight products, the output layer included."""
    return 2 * sum(parameter.num_multiplied for parameter in parameter_table(model))


def _forward_attention(model: ModelConfig, seq_length: int) -> int:
    """Return the forward FLOPs per token of scores and values under a causal mask (half of `4 * L * s * a * d`)."""
    return model.num_layers * seq_length * model.num_attention_heads * (model.head_size + model.value_size)


def _executed_attention(model: ModelConfig, seq_length: int) -> int:
    width = max(model.head_size, model.value_size)
    return 2 * model.num_layers * seq_length * model.num_attention_heads * width
