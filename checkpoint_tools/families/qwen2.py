"""Qwen2 and Qwen2.5: Llama with biases of queries, keys and values."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES

QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    rules=RULES,
    fields=FIELDS,
    has={**HAS, "qk_layernorm": False, "add_qkv_bias": True, "add_bias_linear": False},
    fixed={"hidden_act": ("silu",), "use_sliding_window": (False,), "use_mrope": (False,)},
    ignored=("sliding_window", "max_window_layers"),
    defaults={"num_key_value_heads": 32},
    is_default=True,
)
