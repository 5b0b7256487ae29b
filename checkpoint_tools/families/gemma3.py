"""Gemma 3, its models of texts alone: Gemma 2 with norms of heads, and a base of their own in layers with a window."""

from __future__ import annotations

from typing import Any

from checkpoint_tools.families.family import Derived, Family, Fields
from checkpoint_tools.families.gemma2 import GEMMA2, rules_with_four_norms
from checkpoint_tools.families.llama_like import FIELDS
from checkpoint_tools.families.local_rotation import LOCAL_BASE_KEY
from checkpoint_tools.families.windows import CAPS, MOST_LAYERS, SCALE
from harness.config.model import ModelConfig


def _read_base(said: Fields) -> dict[str, Any]:
    has_windows = MOST_LAYERS.read(said)["window_size"] is not None
    return {"window_rotary_base": said.get(LOCAL_BASE_KEY) if has_windows else None}


def _base(model: ModelConfig) -> float:
    return model.rotary_base if model.window_rotary_base is None else model.window_rotary_base


LOCAL_BASE = Derived(
    keys=(LOCAL_BASE_KEY, *MOST_LAYERS.keys),  # read only where those are right
    fields=("window_rotary_base",),
    read=_read_base,
    write=lambda model: {LOCAL_BASE_KEY: _base(model)},
    objections=lambda model: (
        ["its layers with a window are stretched by rope_scaling"]
        if any(model.windowed_layers) and model.window_rotary_base is None and model.rope_scaling is not None
        else []
    ),
)

GEMMA3 = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    rules=rules_with_four_norms(),
    fields=FIELDS | CAPS,
    derived=(MOST_LAYERS, SCALE, LOCAL_BASE),
    has=dict(GEMMA2.has) | {"qk_layernorm": True, "qk_layernorm_over": "head"},
    fixed=GEMMA2.fixed,
    ignored=(*GEMMA2.ignored, "_sliding_window_pattern"),
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "rope_theta": 1e6,
        LOCAL_BASE_KEY: 1e4,
    },
    rotates_apart_in_windows=True,
    is_default=True,
)
