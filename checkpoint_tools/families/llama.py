"""Llama 1 to 3.x, and everything that writes itself as one (MiniMind2 among them)."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    rules=RULES,
    fields=FIELDS,
    has={**HAS, "qk_layernorm": False, "add_qkv_bias": False},
    # Beside biases everywhere, one for queries, keys and values changes nothing.
    required=lambda model: {"add_qkv_bias": model.add_qkv_bias and model.add_bias_linear},
    fixed={"hidden_act": ("silu",), "pretraining_tp": (1,)},
    has_bias_keys=True,
    is_default=True,
)
