"""Qwen3 (dense): Llama with norms of queries and keys per head, before the rotation."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES

QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    rules=RULES,
    fields=FIELDS,
    has={**HAS, "qk_layernorm": True, "add_qkv_bias": False, "add_bias_linear": False},
    fixed={"hidden_act": ("silu",), "use_sliding_window": (False,), "attention_bias": (False,)},
    ignored=("sliding_window", "max_window_layers"),
    defaults={"num_key_value_heads": 32, "head_dim": 128},
    is_default=True,
)
