"""The settings of latent attention: sizes that follow, and a sentence for what does not fit."""

from __future__ import annotations

import re
from typing import Any

import pytest
from config_text import SMALL

from harness.config.model import ModelConfig
from harness.config.overrides import apply_override
from harness.config.problems import dotted
from harness.config.schema import Config
from harness.config.strict_yaml import parse_file_text
from harness.config.validate import cross_field_problems

DENSE: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 10,  # no multiple of the heads
    "num_attention_heads": 4,
    "ffn_hidden_size": 16,
    "vocab_size": 64,
}
LATENT = {**DENSE, "multi_latent_attention": True, "qk_head_dim": 6, "qk_pos_emb_head_dim": 4, "v_head_dim": 5}


def problems(fields: dict[str, Any]) -> list[str]:
    model = ModelConfig(**fields)
    return [f"{dotted(each.location)} {each.text}" for each in cross_field_problems({"model": model})]


def test_sizes_of_heads() -> None:
    model = ModelConfig(**LATENT, qk_layernorm=True)
    assert (model.head_size, model.value_size, model.positional_size, model.rotary_size) == (10, 5, 4, 4)
    assert not model.norms_each_head
    assert problems(LATENT) == []
    plain = ModelConfig(**{**DENSE, "hidden_size": 16}, rotary_percent=0.5)
    assert (plain.head_size, plain.value_size, plain.positional_size, plain.rotary_size) == (4, 4, 4, 2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"qk_pos_emb_head_dim": 7}, "model.qk_pos_emb_head_dim must be even, given 7: .* take 6 or 8"),
        ({"qk_pos_emb_head_dim": 1}, "model.qk_pos_emb_head_dim must be even, given 1: .* take 2"),
        ({"num_query_groups": 2}, "model.num_query_groups must be num_attention_heads 4 .* given 2; remove it"),
        (
            {"kv_channels": 8},
            "model.kv_channels cannot be combined with multi_latent_attention: sizes of heads are qk_head_dim, "
            "qk_pos_emb_head_dim and v_head_dim; remove it",
        ),
        ({"rotary_percent": 0.5}, "model.rotary_percent cannot be combined .* rotated numbers .* remove it"),
        (
            {"qk_layernorm": True, "qk_layernorm_over": "width"},
            "model.qk_layernorm_over cannot be combined .* norms are of latents, not of heads; remove it",
        ),
        ({"add_qkv_bias": True}, "model.add_qkv_bias cannot be combined .* have no biases; remove it"),
        ({"add_bias_linear": True}, "model.add_bias_linear cannot be combined .* have no biases; remove it"),
    ],
)
def test_what_does_not_fit_latents_is_said(changes: dict[str, Any], text: str) -> None:
    (problem,) = problems({**LATENT, **changes})
    assert re.search(text, problem), problem


@pytest.mark.parametrize("name", ["q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim"])
def test_sizes_of_latents_have_no_effect_without_them(name: str) -> None:
    (problem,) = problems({**DENSE, "hidden_size": 16, name: 8})
    assert problem == f"model.{name} has no effect without multi_latent_attention; set that, or remove this"


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("precision.fp8=hybrid", "precision.fp8 cannot be combined with model.multi_latent_attention; leave it out"),
        (
            "parallel={context_parallel_size: 2, cp_comm_type: p2p}",
            "parallel.cp_comm_type p2p is Transformer Engine's ring, which cannot be combined with "
            "model.multi_latent_attention; take allgather or a2a",
        ),
        (
            "phases.0.parallel={context_parallel_size: 4, cp_comm_type: p2p}",
            "phases.0.parallel.cp_comm_type p2p is Transformer Engine's ring, which cannot be combined with "
            "model.multi_latent_attention; take allgather or a2a",
        ),
    ],
)
def test_what_needs_transformer_engine_is_refused(override: str, text: str) -> None:
    document = parse_file_text(SMALL, "small.yaml")
    for each in ("model.multi_latent_attention=true", override):
        apply_override(document, each)
    found = cross_field_problems(dict(Config.model_validate(document.value)))
    assert text in [f"{dotted(each.location)} {each.text}" for each in found]
