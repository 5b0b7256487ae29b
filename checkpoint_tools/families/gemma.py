"""Gemma (the first): Llama with norms that multiply by one plus their weights, and a scaled embedding."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES

GEMMA = Family(
    model_type="gemma",
    architecture="GemmaForCausalLM",
    rules=RULES,
    fields=FIELDS,
    has={
        **HAS,
        "activation": "geglu_tanh",
        "layernorm_zero_centered_gamma": True,
        "scale_embedding": True,
        "qk_layernorm": False,
        "add_qkv_bias": False,
        "add_bias_linear": False,
    },
    # Old files say gelu, and mean its tanh approximation; so does transformers.
    fixed={
        "hidden_act": ("gelu_pytorch_tanh", "gelu"),
        "hidden_activation": (None, "gelu_pytorch_tanh"),
        "attention_bias": (False,),
        "use_bidirectional_attention": (None, False),
    },
    defaults={"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
    is_default=True,
)
