"""InternLM2: Llama with a fused projection `wqkv [G·(N/G + 2)·D, H]` and names of its own.

The released code reads `wqkv` as, for each group, its queries, then its key, then its value. That is Megatron's own
order, so the tensor moves unchanged. transformers does not know the family (its class is code in the model's folder,
which is never run): `as_llama` takes a model apart by the released code's indexing, and Llama's class judges it.
"""

from __future__ import annotations

import re

import torch

from checkpoint_tools.families.family import Family, Judged, Rule
from checkpoint_tools.families.llama_like import FIELDS, HAS
from checkpoint_tools.layout import GATE_UP, VOCABULARY
from harness.config.model import ModelConfig
from harness.parameters.names import EMBEDDING, LAYERS, OUTPUT

_OURS = f"{LAYERS}{{}}."
_THEIRS = "model.layers.{}."

_RULES = (
    Rule(ours=EMBEDDING, theirs=("model.tok_embeddings.weight",), fusion=VOCABULARY),
    Rule(ours=f"{_OURS}input_layernorm.weight", theirs=(f"{_THEIRS}attention_norm.weight",)),
    Rule(ours=f"{_OURS}self_attention.linear_qkv.weight", theirs=(f"{_THEIRS}attention.wqkv.weight",)),
    Rule(ours=f"{_OURS}self_attention.linear_proj.weight", theirs=(f"{_THEIRS}attention.wo.weight",)),
    Rule(ours=f"{_OURS}pre_mlp_layernorm.weight", theirs=(f"{_THEIRS}ffn_norm.weight",)),
    Rule(
        ours=f"{_OURS}mlp.linear_fc1.weight",
        theirs=(f"{_THEIRS}feed_forward.w1.weight", f"{_THEIRS}feed_forward.w3.weight"),
        fusion=GATE_UP,
    ),
    Rule(ours=f"{_OURS}mlp.linear_fc2.weight", theirs=(f"{_THEIRS}feed_forward.w2.weight",)),
    Rule(ours="decoder.final_layernorm.weight", theirs=("model.norm.weight",)),
    Rule(ours=OUTPUT, theirs=("output.weight",), fusion=VOCABULARY),
)

_LLAMA_NAMES = {
    "tok_embeddings": "embed_tokens",
    "attention_norm": "input_layernorm",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}
_LLAMA_NAME = re.compile("|".join(re.escape(name) for name in _LLAMA_NAMES))


def as_llama(name: str, tensor: torch.Tensor, model: ModelConfig) -> Judged:
    """Return one tensor of InternLM2 as Llama's tensors."""
    if name == "output.weight":
        return {"lm_head.weight": tensor}
    if not name.endswith("attention.wqkv.weight"):
        return {_LLAMA_NAME.sub(lambda match: _LLAMA_NAMES[match[0]], name): tensor}
    width = tensor.size(1)
    by_group = tensor.view(model.query_groups, -1, model.head_size, width)
    parts = {"q": by_group[:, :-2], "k": by_group[:, -2], "v": by_group[:, -1]}
    stem = name.replace("attention.wqkv.weight", "self_attn.{}_proj.weight")
    return {stem.format(part): rows.reshape(-1, width) for part, rows in parts.items()}


INTERNLM2 = Family(
    model_type="internlm2",
    architecture="InternLM2ForCausalLM",
    rules=_RULES,
    fields={key: name for key, name in FIELDS.items() if key != "head_dim"},
    has={**HAS, "qk_layernorm": False, "add_qkv_bias": False, "add_bias_linear": False},
    # A head's size may be spelled out, but not be another.
    required=lambda model: {
        "kv_channels": model.kv_channels,
        "head_size": model.hidden_size // model.num_attention_heads,
    },
    fixed={"hidden_act": ("silu",), "bias": (False,), "pretraining_tp": (1,)},
    defaults={"bias": True},
    ignored=("attn_implementation",),
    judge=as_llama,
    note=(
        "transformers does not know internlm2: AutoModelForCausalLM loads this folder only with the modeling code of "
        "the original repository (modeling_internlm2.py and configuration_internlm2.py), an auto_map in config.json "
        "that names them, and trust_remote_code=True. --family llama needs none of these."
    ),
)
