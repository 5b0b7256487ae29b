"""Qwen2 and Qwen2.5: Llama with biases of queries, keys and values."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES
from checkpoint_tools.families.windows import QWEN_WINDOWS

QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    rules=RULES,
    fields=FIELDS,
    derived=(QWEN_WINDOWS,),
    has={**HAS, "qk_layernorm": False, "add_qkv_bias": True, "add_bias_linear": False},
    fixed={"hidden_act": ("silu",), "use_mrope": (False,)},
    defaults={"sliding_window": 4096, "num_key_value_heads": 32},
    is_default=True,
)
