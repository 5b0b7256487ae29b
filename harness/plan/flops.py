"""Floating-point operations per trained token, and the peak of a GPU to compare them with.

The headline convention (model FLOPs): a multiply-add counts 2, forward and backward together cost three times the
forward, so every weight that a token is multiplied with costs 6 per token. With h hidden size, a heads and g query
groups of size d, f MLP width, L layers, V true vocabulary, s sequence length:

    linear    = 6 * (L * (2*h*a*d + 2*h*g*d + 3*h*f) + V*h)      (2*h*f if the MLP is not gated)
    attention = 6 * L * s * a * d                                (scores and values; causal: half of the full square)

A layer whose tokens see a window of w of them has (2*w - w*w/s) in the place of s there, if w < s.
With latent attention the linear part has the projections of latents in place of q, k and v, and values have heads of
another size than queries and keys: `attention = 3 * L * s * a * (d + v)`.

Not counted: the embedding lookup, padded vocabulary rows, norms, activations, the optimizer, and anything recomputed.
"""

from __future__ import annotations

from functools import lru_cache

from harness.config.model import ModelConfig
from harness.config.schema import Config
from harness.parameters.parameter import Parameter
from harness.parameters.table import parameter_table
from harness.plan.gpus import find_gpu
from harness.plan.stages import Stages, layers_of_rank, layers_per_stage

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
    widths = model.head_size + model.value_size
    full = model.num_layers * _forward_attention_of_layer(model, seq_length, seq_length, widths)
    return 3 * (_forward_linear(model) + 2 * full)


def hardware_flops_per_token(config: Config, seq_length: int) -> int:
    """Return the FLOPs per token that the hardware executes in a layout: the numerator of HFU, causal attention.

    Flash attention computes the scores again in backward (5 matrix products against 2 in forward), and has values as
    wide as queries and keys, filled up with zeros (`harness.model.latent`). Recomputed modules and layers are computed
    once more, but never the output layer.
    """
    model, modules = config.model, config.parallel.recomputed_modules
    attention = _attention_by_layer(model, seq_length, 2 * max(model.head_size, model.value_size))
    executed = 3 * _forward_linear(model) + sum(attention) * 7 // 2
    if "core_attn" in modules:
        executed += sum(attention)
    again = _recomputed_layers(config)
    linear = sum(
        2 * parameter.num_multiplied
        for parameter in parameter_table(model)
        if parameter.layer is not None and (parameter.layer in again or _is_of(parameter, modules))
    )
    return executed + linear + sum(attention[layer] for layer in again)


def _recomputed_layers(config: Config) -> set[int]:
    """Return the numbers of the layers that are recomputed as a whole."""
    parallel, stages = config.parallel, layers_per_stage(config)
    return {
        layer
        for rank in range(parallel.pipeline_model_parallel_size)
        for layers in layers_of_rank(stages, rank)
        for layer in layers[: parallel.num_recomputed(len(layers))]
    }


def _is_of(parameter: Parameter, modules: frozenset[str]) -> bool:
    """Return whether the parameter belongs to one of the modules that have products of their own."""
    if parameter.part == "mlp":
        return "mlp" in modules
    is_shared = ".shared_experts." in parameter.name
    return parameter.part == "experts" and ("moe" in modules or (is_shared and "shared_experts" in modules))


def peak_flops(device_name: str) -> float | None:
    """Return the peak dense bf16 FLOP/s of a GPU by the name that torch reports, or None if it is unknown."""
    gpu = find_gpu(device_name)
    return gpu.peak_flops if gpu else None


def stage_flops_per_token(model: ModelConfig, seq_length: int, stages: Stages) -> tuple[int, ...]:
    """Return the model FLOPs per token of every pipeline rank, which add up to `flops_per_token`."""
    by_layer = [0] * model.num_layers
    at_end = 0
    for parameter in parameter_table(model):
        if parameter.layer is None:
            at_end += 6 * parameter.num_multiplied
        else:
            by_layer[parameter.layer] += 6 * parameter.num_multiplied
    attention = _attention_by_layer(model, seq_length, 2 * max(model.head_size, model.value_size))
    shares = [
        sum(by_layer[layer] + 3 * attention[layer] for layers in layers_of_rank(stages, rank) for layer in layers)
        for rank in range(len(stages[0]))
    ]
    shares[-1] += at_end
    return tuple(shares)


@lru_cache(maxsize=_NUM_REMEMBERED)
def _forward_linear(model: ModelConfig) -> int:
    """Forward FLOPs per token of all weight products, the output layer included."""
    return 2 * sum(parameter.num_multiplied for parameter in parameter_table(model))


def _forward_attention(model: ModelConfig, seq_length: int) -> int:
    """Return the forward FLOPs per token of scores and values under a causal mask (half of `4 * L * s * a * d`)."""
    return sum(_attention_by_layer(model, seq_length, model.head_size + model.value_size))


def _attention_by_layer(model: ModelConfig, seq_length: int, widths: int) -> list[int]:
    """Return the same of each layer, where a head of queries and keys and one of values are so wide together."""
    of_layers = (model.window_size if has_window else None for has_window in model.windowed_layers)
    return [_forward_attention_of_layer(model, seq_length, window or seq_length, widths) for window in of_layers]


def _forward_attention_of_layer(model: ModelConfig, seq_length: int, window: int, widths: int) -> int:
    seen = min(window, seq_length)
    # Twice the tokens that one sees on average: w, but fewer for the first w of a sample.
    twice_seen = 2 * seen - seen * seen / seq_length
    return round(twice_seen * model.num_attention_heads * widths)
