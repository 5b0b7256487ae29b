"""Qwen3 (dense): Llama with norms of queries and keys per head, before the rotation."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES
from checkpoint_tools.families.windows import QWEN_WINDOWS

QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    rules=RULES,
    fields=FIELDS,
    derived=(QWEN_WINDOWS,),
    has={**HAS, "qk_layernorm": True, "add_qkv_bias": False, "add_bias_linear": False},
    fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
    defaults={"sliding_window": 4096, "num_key_value_heads": 32, "head_dim": 128},
    is_default=True,
)
