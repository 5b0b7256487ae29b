"""Mistral without a sliding window (7B v0.2 and later, NeMo, Small): Llama without biases."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES

MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    rules=RULES,
    fields=FIELDS,
    has={**HAS, "qk_layernorm": False, "add_qkv_bias": False, "add_bias_linear": False},
    fixed={"hidden_act": ("silu",), "sliding_window": (None,)},
    defaults={"sliding_window": 4096, "num_key_value_heads": 8},
)
