"""GPT-2: learned positions, LayerNorm, biases everywhere.

Theirs have inputs in front of outputs: `c_attn [H, 3·H]` (queries, keys, values), `c_fc [H, F]`, `c_proj`. Published
files leave the prefix `transformer.` out of names, and hold the causal mask of each layer.
"""

from __future__ import annotations

from typing import Any

from checkpoint_tools.families.family import Derived, Family, Fields, Places, Rule
from checkpoint_tools.layout import QKV_TURNED, TURNED, UNCHANGED, VOCABULARY, Fusion
from harness.config.model import ModelConfig
from harness.parameters.names import EMBEDDING, LAYERS, OUTPUT, POSITIONS

_PREFIX = "transformer."


def _of_layer(ours: str, theirs: str, fusion: Fusion = UNCHANGED) -> tuple[Rule, ...]:
    return tuple(
        Rule(ours=f"{LAYERS}{{}}.{ours}.{kind}", theirs=(f"{_PREFIX}h.{{}}.{theirs}.{kind}",), fusion=fusion)
        for kind in ("weight", "bias")
    )


def _read_width(said: Fields) -> dict[str, Any]:
    return {"ffn_hidden_size": said.get("n_inner") or 4 * said.get("n_embd", 0)}


WIDTH = Derived(
    keys=("n_inner",),
    fields=("ffn_hidden_size",),
    read=_read_width,
    write=lambda model: {"n_inner": model.ffn_hidden_size},
)


def _objections(model: ModelConfig) -> list[str]:
    found = []
    if model.query_groups != model.num_attention_heads:
        found.append(f"model.num_query_groups is {model.query_groups}, the family has as many as heads")
    if model.head_size * model.num_attention_heads != model.hidden_size:
        found.append(f"model.kv_channels is {model.head_size}, the family has hidden_size / num_attention_heads")
    return found


HEADS = Derived(
    keys=("n_head",),
    fields=("num_query_groups", "kv_channels"),
    read=lambda said: {},
    write=lambda model: {},
    objections=_objections,
)

GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    rules=(
        Rule(ours=EMBEDDING, theirs=(f"{_PREFIX}wte.weight",), fusion=VOCABULARY),
        Rule(ours=POSITIONS, theirs=(f"{_PREFIX}wpe.weight",)),
        *_of_layer("input_layernorm", "ln_1"),
        *_of_layer("self_attention.linear_qkv", "attn.c_attn", QKV_TURNED),
        *_of_layer("self_attention.linear_proj", "attn.c_proj", TURNED),
        *_of_layer("pre_mlp_layernorm", "ln_2"),
        *_of_layer("mlp.linear_fc1", "mlp.c_fc", TURNED),
        *_of_layer("mlp.linear_fc2", "mlp.c_proj", TURNED),
        Rule(ours="decoder.final_layernorm.weight", theirs=(f"{_PREFIX}ln_f.weight",)),
        Rule(ours="decoder.final_layernorm.bias", theirs=(f"{_PREFIX}ln_f.bias",)),
        Rule(ours=OUTPUT, theirs=("lm_head.weight",), fusion=VOCABULARY),
    ),
    fields={
        "vocab_size": "vocab_size",
        "n_embd": "hidden_size",
        "n_layer": "num_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "norm_epsilon",
        "initializer_range": "init_method_std",
    },
    derived=(WIDTH, HEADS),
    has={
        "normalization": "LayerNorm",
        "activation": "gelu_tanh",
        "position_embedding_type": "learned_absolute",
        "qk_layernorm": False,
        "add_qkv_bias": False,
        "add_bias_linear": True,
    },
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
    # Dropout and a classifier's head act elsewhere; n_ctx repeats n_positions; the order of a product does not matter.
    ignored=(
        *("resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx", "reorder_and_upcast_attn"),
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    ),
    defaults={"tie_word_embeddings": True, "n_positions": 1024, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02},
    places=Places(embedding=f"{_PREFIX}drop", layers=f"{_PREFIX}h", final_norm=f"{_PREFIX}ln_f"),
    base_prefix=_PREFIX,
    buffers=(".attn.bias", ".attn.masked_bias"),
    is_default=True,
)
