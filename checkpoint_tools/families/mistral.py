"""Mistral: Llama without biases, with a sliding window in every layer (7B v0.1) or without (later ones)."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES
from checkpoint_tools.families.windows import in_every_layer

MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    rules=RULES,
    fields=FIELDS,
    derived=(in_every_layer(),),
    has={**HAS, "qk_layernorm": False, "add_qkv_bias": False, "add_bias_linear": False},
    fixed={"hidden_act": ("silu",)},
    defaults={"sliding_window": 4096, "num_key_value_heads": 8},
    is_default=True,
)
