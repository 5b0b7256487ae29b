"""The model as one table: every parameter that it has, by rows.

A parameter exists if it is in the table. To add a kind of parameter, add a row: initial weights, cuts, weight decay,
counts, FLOPs, memory, growth and conversions follow. The rows are those of Megatron-Core's GPT model: fused
query-key-value and gate-up projections, an MLP or experts in each layer (those of a layer in one tensor), two
or four norms per layer, one final norm, positions by rotation (no parameters) or by a learned vector each, and an
output layer that has no bias and may share the embedding. With latent attention, latents and their projections take
the place of the fused one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

from harness.parameters.latent_rows import LATENT_ROWS, is_latent
from harness.parameters.model_shape import ModelShape
from harness.parameters.names import EMBEDDING, OUTPUT, POSITIONS, plain_name
from harness.parameters.parameter import Cut, Initial, Parameter
from harness.parameters.rows import (
    Row,
    always,
    deviation_into_residual,
    into_layer,
    into_residual,
    never,
    norm,
    of_vocabulary,
)

_NUM_REMEMBERED = 16
"""Tables that are kept: those of one command, with some to spare."""


def _norm_of_heads(name: str, heads: Callable[[ModelShape], int]) -> tuple[Row, ...]:
    """Rows of a norm of queries or keys: as wide as a head, or as all heads, which tensor-parallel ranks share."""

    def is_whole(model: ModelShape) -> bool:
        return model.qk_layernorm_over == "width"

    return norm(
        name,
        lambda model: (heads(model) if is_whole(model) else 1) * model.head_size,
        part="attention",
        when=lambda model: model.qk_layernorm and not is_latent(model),
        cut=lambda model: Cut(dim=0) if is_whole(model) else None,
    )


def _has_norms_before(model: ModelShape) -> bool:
    return model.norm_placement != "behind"


def _has_norms_behind(model: ModelShape) -> bool:
    return model.norm_placement != "before"


def _of_experts() -> tuple[Row, ...]:
    """Rows of the experts of a layer `[experts, …]`: expert-parallel ranks share experts, others each of them.

    The second bias is one vector for every expert, of which each rank that shares the expert adds its own part.
    """

    def bias(name: str, width: Callable[[ModelShape], int], num_blocks: Callable[[ModelShape], int]) -> Row:
        return Row(
            name=name,
            part="experts",
            shape=lambda model: (_num_experts(model), width(model)),
            when=lambda model: model.add_bias_linear,
            cut=lambda model: Cut(dim=1, num_blocks=num_blocks(model)),
            is_of_experts=True,
        )

    def row(
        name: str,
        width: Callable[[ModelShape], tuple[int, int]],
        *,
        deviation: Callable[[ModelShape], float],
        cut: Callable[[ModelShape], Cut],
        writes: bool,
    ) -> Row:
        return Row(
            name=name,
            part="experts",
            shape=lambda model: (_num_experts(model), *width(model)),
            initial=lambda model: Initial(deviation=deviation(model)),
            cut=cut,
            decays=True,
            is_multiplied=always,
            is_of_experts=True,
            writes_to_residual=writes,
        )

    return (
        row(
            "mlp.experts.linear_fc1.weight",
            lambda model: (_num_blocks(model) * model.expert_width, model.hidden_size),
            deviation=lambda model: model.init_method_std,
            cut=lambda model: Cut(dim=1, num_blocks=_num_blocks(model)),
            writes=False,
        ),
        bias(
            "mlp.experts.linear_fc1.bias", lambda model: _num_blocks(model) * model.expert_width, num_blocks=_num_blocks
        ),
        row(
            "mlp.experts.linear_fc2.weight",
            lambda model: (model.hidden_size, model.expert_width),
            deviation=deviation_into_residual,
            cut=lambda model: Cut(dim=2),
            writes=True,
        ),
        replace(
            bias("mlp.experts.linear_fc2.bias", lambda model: model.hidden_size, num_blocks=lambda model: 1),
            writes_to_residual=True,
        ),
    )


def _stacking(projections: Callable[[ModelShape], tuple[int, ...]], rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows of a matrix that stacks projections otherwise than its blocks say."""
    return tuple(replace(row, stacked=projections) for row in rows)


def _of_a_query_group(model: ModelShape) -> tuple[int, int, int]:
    """Return the rows of the queries, of the key and of the value of each query group."""
    return (model.num_attention_heads // model.query_groups * model.head_size, model.head_size, model.head_size)


def _num_experts(model: ModelShape) -> int:
    return model.num_moe_experts or 0


def _num_blocks(model: ModelShape) -> int:
    """Return the projections that the first tensor of an MLP holds: gate and up projection, or one."""
    return 2 if model.gated else 1


def _has_shared_experts(model: ModelShape) -> bool:
    return model.moe_shared_expert_intermediate_size is not None


def _shared_width(model: ModelShape) -> int:
    return model.moe_shared_expert_intermediate_size or 0


def _is_tied(model: ModelShape) -> bool:
    return not model.untie_embeddings_and_output_weights


_BEFORE_LAYERS = (
    of_vocabulary(
        EMBEDDING,
        "embedding",
        lambda model: ("first", "last") if _is_tied(model) else ("first",),
        # Looked up, not multiplied with, unless it is the output layer too.
        is_multiplied=_is_tied,
    ),
    Row(
        name=POSITIONS,
        part="embedding",
        shape=lambda model: (model.max_position_embeddings or 0, model.hidden_size),
        when=lambda model: model.position_embedding_type == "learned_absolute",
        initial=lambda model: Initial(deviation=model.init_method_std),
        decays=True,
        ends=lambda model: ("first",),
    ),
)
_OF_LAYER = (
    *norm("input_layernorm", lambda model: model.hidden_size, when=_has_norms_before),
    Row(
        name="self_attention.core_attention.softmax_offset",
        part="attention",
        shape=lambda model: (model.num_attention_heads,),
        when=lambda model: model.softmax_type == "learnable",
        initial=lambda model: Initial(deviation=model.init_method_std),
        cut=lambda model: Cut(dim=0),
    ),
    *into_residual(
        "self_attention.linear_proj", "attention", lambda model: model.num_attention_heads * model.value_size
    ),
    *_stacking(
        _of_a_query_group,
        into_layer(
            "self_attention.linear_qkv",
            "attention",
            lambda model: (model.num_attention_heads + 2 * model.query_groups) * model.head_size,
            when=lambda model: not is_latent(model),
            has_bias=lambda model: (model.add_bias_linear or model.add_qkv_bias) and not is_latent(model),
        ),
    ),
    *LATENT_ROWS,
    *_norm_of_heads("self_attention.q_layernorm", lambda model: model.num_attention_heads),
    *_norm_of_heads("self_attention.k_layernorm", lambda model: model.query_groups),
    *norm("post_self_attn_layernorm", lambda model: model.hidden_size, when=_has_norms_behind),
    *norm("pre_mlp_layernorm", lambda model: model.hidden_size, when=_has_norms_before),
)
_OF_MLP = (
    *into_layer(
        "mlp.linear_fc1",
        "mlp",
        lambda model: _num_blocks(model) * model.ffn_hidden_size,
        has_bias=lambda model: model.add_bias_linear,
        num_blocks=_num_blocks,
    ),
    *into_residual("mlp.linear_fc2", "mlp", lambda model: model.ffn_hidden_size),
)
_OF_EXPERTS = (
    Row(
        name="mlp.router.weight",
        part="experts",
        shape=lambda model: (_num_experts(model), model.hidden_size),
        initial=lambda model: Initial(deviation=model.init_method_std),
        decays=True,
        is_multiplied=always,
    ),
    Row(
        name="mlp.router.bias",
        part="experts",
        shape=lambda model: (_num_experts(model),),
        when=lambda model: model.add_bias_linear,
    ),
    Row(
        name="mlp.router.expert_bias",
        part="experts",
        shape=lambda model: (_num_experts(model),),
        when=lambda model: model.moe_router_enable_expert_bias,
        is_trained=False,
    ),
    *_of_experts(),
    *into_layer(
        "mlp.shared_experts.linear_fc1",
        "experts",
        lambda model: _num_blocks(model) * _shared_width(model),
        when=_has_shared_experts,
        has_bias=never,
        num_blocks=_num_blocks,
    ),
    *into_residual("mlp.shared_experts.linear_fc2", "experts", _shared_width, when=_has_shared_experts),
    Row(
        name="mlp.shared_experts.gate_weight",
        part="experts",
        shape=lambda model: (1, model.hidden_size),
        when=lambda model: _has_shared_experts(model) and model.moe_shared_expert_gate,
        initial=lambda model: Initial(deviation=model.init_method_std),
        decays=True,
        is_multiplied=always,
    ),
)
_BEHIND_MLP = norm("post_mlp_layernorm", lambda model: model.hidden_size, when=_has_norms_behind)
_AFTER_LAYERS = (
    *norm("decoder.final_layernorm", lambda model: model.hidden_size, end="last"),
    of_vocabulary(
        OUTPUT,
        "output",
        lambda model: ("last",),
        is_multiplied=always,
        when=lambda model: model.untie_embeddings_and_output_weights,
    ),
)


@lru_cache(maxsize=_NUM_REMEMBERED)
def parameter_table(model: ModelShape) -> tuple[Parameter, ...]:
    """Return every parameter of a model, from the embedding to the output layer."""
    return tuple(_parameters(model))


def find_parameter(name: str, model: ModelShape) -> Parameter:
    """Return the parameter of a name in the whole model, in either spelling of norms."""
    found = _by_name(model).get(plain_name(name))
    assert found is not None, f"the table of the model's parameters has no {name}"
    return found


@lru_cache(maxsize=_NUM_REMEMBERED)
def _by_name(model: ModelShape) -> Mapping[str, Parameter]:
    return {parameter.name: parameter for parameter in parameter_table(model)}


def _parameters(model: ModelShape) -> Iterator[Parameter]:
    yield from (row.parameter(model, None) for row in _BEFORE_LAYERS if row.when(model))
    for layer, has_experts in enumerate(model.expert_layers):
        rows = (*_OF_LAYER, *(_OF_EXPERTS if has_experts else _OF_MLP), *_BEHIND_MLP)
        yield from (row.parameter(model, layer) for row in rows if row.when(model))
    yield from (row.parameter(model, None) for row in _AFTER_LAYERS if row.when(model))
