"""The model as one table: every parameter that it has, by rows.

A parameter exists if it is in the table. To add a kind of parameter, add a row: initial weights, cuts, weight decay,
counts, FLOPs, memory, growth and conversions follow. The rows are those of Megatron-Core's GPT model: fused
query-key-value and gate-up projections, an MLP or experts in each layer (those of a layer in one tensor), two
or four norms per layer, one final norm, rotary positions (no parameters), and an output layer that has no bias and may
share the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from harness.parameters.model_shape import ModelShape
from harness.parameters.names import EMBEDDING, OUTPUT, in_layer, plain_name
from harness.parameters.parameter import Cut, End, Initial, Parameter, Part

_NUM_REMEMBERED = 16
"""Tables that are kept: those of one command, with some to spare."""


def _always(model: ModelShape) -> bool:
    return True


def _never(model: ModelShape) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A parameter of every model for which `when` holds."""

    name: str
    part: Part
    shape: Callable[[ModelShape], tuple[int, ...]]
    when: Callable[[ModelShape], bool] = _always
    initial: Callable[[ModelShape], Initial] = lambda model: Initial()
    cut: Callable[[ModelShape], Cut | None] = lambda model: None
    decays: bool = False
    ends: Callable[[ModelShape], tuple[End, ...]] = lambda model: ()
    is_multiplied: Callable[[ModelShape], bool] = _never
    writes_to_residual: bool = False
    is_of_experts: bool = False
    is_trained: bool = True
    has_vocabulary: bool = False
    stacked: Callable[[ModelShape], tuple[int, ...]] = lambda model: ()

    def parameter(self, model: ModelShape, layer: int | None) -> Parameter:
        shape = self.shape(model)
        true_shape = (model.vocab_size, *shape[1:]) if self.has_vocabulary else shape
        if self.is_of_experts:
            true_shape = (model.moe_router_topk, *shape[1:])
        return Parameter(
            name=self.name if layer is None else in_layer(layer, self.name),
            part=self.part,
            shape=shape,
            initial=self.initial(model),
            cut=self.cut(model),
            decays=self.decays,
            layer=layer,
            ends=self.ends(model),
            num_multiplied=math.prod(true_shape) if self.is_multiplied(model) else 0,
            writes_to_residual=self.writes_to_residual,
            num_experts=shape[0] if self.is_of_experts else None,
            num_chosen=model.moe_router_topk if self.is_of_experts else None,
            is_trained=self.is_trained,
            num_true_rows=model.vocab_size if self.has_vocabulary else None,
            stacked=self.stacked(model),
        )


def _norm(
    name: str,
    size: Callable[[ModelShape], int],
    *,
    part: Part = "norm",
    when: Callable[[ModelShape], bool] = _always,
    end: End | None = None,
    cut: Callable[[ModelShape], Cut | None] = lambda model: None,
) -> tuple[_Row, ...]:
    """Rows of a norm: ones, or zeros to which one is added; and with LayerNorm zeros that are added behind it."""

    def row(kind: str, mean: float, exists: Callable[[ModelShape], bool]) -> _Row:
        return _Row(
            name=f"{name}.{kind}",
            part=part,
            shape=lambda model: (size(model),),
            when=exists,
            initial=lambda model: Initial(mean=0.0 if model.layernorm_zero_centered_gamma else mean),
            cut=cut,
            ends=lambda model: (end,) if end else (),
        )

    def has_bias(model: ModelShape) -> bool:
        return when(model) and model.normalization == "LayerNorm"

    return row("weight", 1.0, when), row("bias", 0.0, has_bias)


def _norm_of_heads(name: str, heads: Callable[[ModelShape], int]) -> tuple[_Row, ...]:
    """Rows of a norm of queries or keys: as wide as a head, or as all heads, which tensor-parallel ranks share."""

    def is_whole(model: ModelShape) -> bool:
        return model.qk_layernorm_over == "width"

    return _norm(
        name,
        lambda model: (heads(model) if is_whole(model) else 1) * model.head_size,
        part="attention",
        when=lambda model: model.qk_layernorm,
        cut=lambda model: Cut(dim=0) if is_whole(model) else None,
    )


def _has_norms_before(model: ModelShape) -> bool:
    return model.norm_placement != "behind"


def _has_norms_behind(model: ModelShape) -> bool:
    return model.norm_placement != "before"


def _into_layer(
    name: str,
    part: Part,
    outputs: Callable[[ModelShape], int],
    *,
    has_bias: Callable[[ModelShape], bool],
    when: Callable[[ModelShape], bool] = _always,
    num_blocks: Callable[[ModelShape], int] = lambda model: 1,
) -> tuple[_Row, ...]:
    """Rows of a projection from the residual stream `[outputs, hidden]`: tensor-parallel ranks share its outputs."""
    weight = _Row(
        name=f"{name}.weight",
        part=part,
        shape=lambda model: (outputs(model), model.hidden_size),
        when=when,
        initial=lambda model: Initial(deviation=model.init_method_std),
        cut=lambda model: Cut(dim=0, num_blocks=num_blocks(model)),
        decays=True,
        is_multiplied=_always,
    )
    bias = _Row(
        name=f"{name}.bias",
        part=part,
        shape=lambda model: (outputs(model),),
        when=has_bias,
        cut=lambda model: Cut(dim=0, num_blocks=num_blocks(model)),
    )
    return weight, bias


def _into_residual(
    name: str, part: Part, inputs: Callable[[ModelShape], int], *, when: Callable[[ModelShape], bool] = _always
) -> tuple[_Row, ...]:
    """Rows of a projection into the residual stream `[hidden, inputs]`: tensor-parallel ranks share its inputs."""
    weight = _Row(
        name=f"{name}.weight",
        part=part,
        shape=lambda model: (model.hidden_size, inputs(model)),
        when=when,
        initial=lambda model: Initial(deviation=_deviation_into_residual(model)),
        cut=lambda model: Cut(dim=1),
        decays=True,
        is_multiplied=_always,
        writes_to_residual=True,
    )
    bias = _Row(
        name=f"{name}.bias",
        part=part,
        shape=lambda model: (model.hidden_size,),
        when=lambda model: when(model) and model.add_bias_linear,
        writes_to_residual=True,
    )
    return weight, bias


def _of_experts() -> tuple[_Row, ...]:
    """Rows of the experts of a layer `[experts, …]`: expert-parallel ranks share experts, others each of them."""

    def row(
        name: str,
        width: Callable[[ModelShape], tuple[int, int]],
        *,
        deviation: Callable[[ModelShape], float],
        cut: Callable[[ModelShape], Cut],
        writes: bool,
    ) -> _Row:
        return _Row(
            name=name,
            part="experts",
            shape=lambda model: (_num_experts(model), *width(model)),
            initial=lambda model: Initial(deviation=deviation(model)),
            cut=cut,
            decays=True,
            is_multiplied=_always,
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
        row(
            "mlp.experts.linear_fc2.weight",
            lambda model: (model.hidden_size, model.expert_width),
            deviation=_deviation_into_residual,
            cut=lambda model: Cut(dim=2),
            writes=True,
        ),
    )


def _stacking(projections: Callable[[ModelShape], tuple[int, ...]], rows: Iterable[_Row]) -> tuple[_Row, ...]:
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


def _deviation_into_residual(model: ModelShape) -> float:
    """Return GPT-2's scaling: two projections of every layer add to the residual stream."""
    return model.init_method_std / math.sqrt(2 * model.num_layers)


def _vocabulary(
    name: str,
    part: Part,
    ends: Callable[[ModelShape], tuple[End, ...]],
    *,
    is_multiplied: Callable[[ModelShape], bool],
    when: Callable[[ModelShape], bool] = _always,
) -> _Row:
    """Row of a table `[padded vocabulary, hidden]`: tensor-parallel ranks share its rows."""
    return _Row(
        name=name,
        part=part,
        shape=lambda model: (model.padded_vocab_size, model.hidden_size),
        when=when,
        initial=lambda model: Initial(deviation=model.init_method_std),
        cut=lambda model: Cut(dim=0),
        decays=True,
        ends=ends,
        is_multiplied=is_multiplied,
        has_vocabulary=True,
    )


def _has_shared_experts(model: ModelShape) -> bool:
    return model.moe_shared_expert_intermediate_size is not None


def _shared_width(model: ModelShape) -> int:
    return model.moe_shared_expert_intermediate_size or 0


def _is_tied(model: ModelShape) -> bool:
    return not model.untie_embeddings_and_output_weights


_BEFORE_LAYERS = (
    _vocabulary(
        EMBEDDING,
        "embedding",
        lambda model: ("first", "last") if _is_tied(model) else ("first",),
        # Looked up, not multiplied with, unless it is the output layer too.
        is_multiplied=_is_tied,
    ),
)
_OF_LAYER = (
    *_norm("input_layernorm", lambda model: model.hidden_size, when=_has_norms_before),
    *_into_residual(
        "self_attention.linear_proj", "attention", lambda model: model.num_attention_heads * model.head_size
    ),
    *_stacking(
        _of_a_query_group,
        _into_layer(
            "self_attention.linear_qkv",
            "attention",
            lambda model: (model.num_attention_heads + 2 * model.query_groups) * model.head_size,
            has_bias=lambda model: model.add_bias_linear or model.add_qkv_bias,
        ),
    ),
    *_norm_of_heads("self_attention.q_layernorm", lambda model: model.num_attention_heads),
    *_norm_of_heads("self_attention.k_layernorm", lambda model: model.query_groups),
    *_norm("post_self_attn_layernorm", lambda model: model.hidden_size, when=_has_norms_behind),
    *_norm("pre_mlp_layernorm", lambda model: model.hidden_size, when=_has_norms_before),
)
_OF_MLP = (
    *_into_layer(
        "mlp.linear_fc1",
        "mlp",
        lambda model: _num_blocks(model) * model.ffn_hidden_size,
        has_bias=lambda model: model.add_bias_linear,
        num_blocks=_num_blocks,
    ),
    *_into_residual("mlp.linear_fc2", "mlp", lambda model: model.ffn_hidden_size),
)
_OF_EXPERTS = (
    _Row(
        name="mlp.router.weight",
        part="experts",
        shape=lambda model: (_num_experts(model), model.hidden_size),
        initial=lambda model: Initial(deviation=model.init_method_std),
        decays=True,
        is_multiplied=_always,
    ),
    _Row(
        name="mlp.router.expert_bias",
        part="experts",
        shape=lambda model: (_num_experts(model),),
        when=lambda model: model.moe_router_enable_expert_bias,
        is_trained=False,
    ),
    *_of_experts(),
    *_into_layer(
        "mlp.shared_experts.linear_fc1",
        "experts",
        lambda model: _num_blocks(model) * _shared_width(model),
        when=_has_shared_experts,
        has_bias=_never,
        num_blocks=_num_blocks,
    ),
    *_into_residual("mlp.shared_experts.linear_fc2", "experts", _shared_width, when=_has_shared_experts),
    _Row(
        name="mlp.shared_experts.gate_weight",
        part="experts",
        shape=lambda model: (1, model.hidden_size),
        when=lambda model: _has_shared_experts(model) and model.moe_shared_expert_gate,
        initial=lambda model: Initial(deviation=model.init_method_std),
        decays=True,
        is_multiplied=_always,
    ),
)
_BEHIND_MLP = _norm("post_mlp_layernorm", lambda model: model.hidden_size, when=_has_norms_behind)
_AFTER_LAYERS = (
    *_norm("decoder.final_layernorm", lambda model: model.hidden_size, end="last"),
    _vocabulary(
        OUTPUT,
        "output",
        lambda model: ("last",),
        is_multiplied=_always,
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
