"""Configurations of models for tests that train nothing."""

from __future__ import annotations

from typing import Any

from harness.config.schema import Config

LATENT: dict[str, Any] = {
    **{"num_query_groups": None, "multi_latent_attention": True, "q_lora_rank": 12, "kv_lora_rank": 8},
    **{"qk_head_dim": 8, "qk_pos_emb_head_dim": 4, "v_head_dim": 8, "qk_layernorm": True},
}
"""Latent attention for the small model."""


def small_model_config(
    precision: dict[str, Any], *, parallel: dict[str, Any] | None = None, model: dict[str, Any] | None = None
) -> Config:
    """A model of two layers, 32 wide; its data is not there."""
    return Config.model_validate(
        {
            "run": {"name": "test"},
            "model": {
                "num_layers": 2,
                "hidden_size": 32,
                "num_attention_heads": 4,
                "num_query_groups": 2,
                "ffn_hidden_size": 64,
                "vocab_size": 100,
                **(model or {}),
            },
            "parallel": {"micro_batch_size": 2, **(parallel or {})},
            "data": {"channels": {"text": {"path": "text"}}},
            "phases": [
                {"name": "main", "train_steps": 1, "seq_length": 8, "global_batch_size": 4, "blend": {"text": 1}}
            ],
            "optimizer": {"learning_rate": 1e-3},
            "precision": precision,
        }
    )
