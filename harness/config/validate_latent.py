"""Rules between the fields of latent attention (MLA), and what cannot be combined with it."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.model import ModelConfig
from harness.config.problems import Problem
from harness.config.schema import PrecisionConfig
from harness.config.validate_phases import changed_fields

_OF_LATENTS = ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")
_INSTEAD = {
    "kv_channels": "sizes of heads are qk_head_dim, qk_pos_emb_head_dim and v_head_dim",
    "rotary_percent": "the rotated numbers of a head are qk_pos_emb_head_dim",
    "position_embedding_type": "its keys have numbers for rotary positions",
    "qk_layernorm_over": "norms are of latents, not of heads",
    "add_qkv_bias": "its projections have no biases",
    "add_bias_linear": "its projections have no biases",
}
"""Fields that say something else of attention, and why they do not fit."""


def latent_problems(model: ModelConfig) -> Iterator[Problem]:
    """Yield the problems of a model's latent attention."""
    if not model.multi_latent_attention:
        for name in changed_fields(model, _OF_LATENTS):
            yield Problem(("model", name), "has no effect without multi_latent_attention; set that, or remove this")
        return
    for name in changed_fields(model, tuple(_INSTEAD)):
        yield Problem(("model", name), f"cannot be combined with multi_latent_attention: {_INSTEAD[name]}; remove it")
    if model.query_groups != model.num_attention_heads:
        yield Problem(
            ("model", "num_query_groups"),
            f"must be num_attention_heads {model.num_attention_heads} with multi_latent_attention, which gives every "
            f"head keys and values of its own, given {model.num_query_groups}; remove it",
        )
    if (size := model.qk_pos_emb_head_dim) % 2:
        yield Problem(
            ("model", "qk_pos_emb_head_dim"),
            f"must be even, given {size}: rotated numbers rotate in pairs; take {size - 1 or 2} or {size + 1}",
        )


def latent_precision_problems(model: ModelConfig, precision: PrecisionConfig) -> Iterator[Problem]:
    """Yield what latent attention cannot be combined with: it has no modules of Transformer Engine."""
    if model.multi_latent_attention and precision.fp8 is not None:
        yield Problem(("precision", "fp8"), "cannot be combined with model.multi_latent_attention; leave it out")
