"""Rows of latent attention (MLA), in place of one projection of queries, keys and values.

Ranks share the projections that make heads. Those that make latents are small, and every rank has them whole.
"""

from __future__ import annotations

from harness.parameters.model_shape import ModelShape
from harness.parameters.rows import into_layer, never, norm


def is_latent(model: ModelShape) -> bool:
    """Return whether a model has latent attention."""
    return model.multi_latent_attention


def _has_query_latent(model: ModelShape) -> bool:
    return model.multi_latent_attention and model.q_lora_rank is not None


def _query_latent(model: ModelShape) -> int:
    return model.q_lora_rank or 0


def _queries(model: ModelShape) -> int:
    return model.num_attention_heads * model.head_size


LATENT_ROWS = (
    *into_layer(
        "self_attention.linear_q_proj",
        "attention",
        _queries,
        when=lambda model: is_latent(model) and model.q_lora_rank is None,
        has_bias=never,
    ),
    *into_layer(
        "self_attention.linear_q_down_proj",
        "attention",
        _query_latent,
        when=_has_query_latent,
        has_bias=never,
        is_shared=False,
    ),
    *norm(
        "self_attention.q_layernorm",
        _query_latent,
        part="attention",
        when=lambda model: _has_query_latent(model) and model.qk_layernorm,
    ),
    *into_layer(
        "self_attention.linear_q_up_proj",
        "attention",
        _queries,
        inputs=_query_latent,
        when=_has_query_latent,
        has_bias=never,
    ),
    *into_layer(
        "self_attention.linear_kv_down_proj",
        "attention",
        lambda model: model.kv_lora_rank + model.qk_pos_emb_head_dim,
        when=is_latent,
        has_bias=never,
        is_shared=False,
    ),
    *norm(
        "self_attention.kv_layernorm",
        lambda model: model.kv_lora_rank,
        part="attention",
        when=lambda model: is_latent(model) and model.qk_layernorm,
    ),
    *into_layer(
        "self_attention.linear_kv_up_proj",
        "attention",
        lambda model: model.num_attention_heads * (model.qk_head_dim + model.value_size),
        inputs=lambda model: model.kv_lora_rank,
        when=is_latent,
        has_bias=never,
    ),
)
