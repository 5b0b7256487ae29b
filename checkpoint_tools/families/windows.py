"""Sliding windows in Hugging Face's models: which layers have one, by the keys of each family, and caps beside them.

transformers counts as we do: a token sees itself and the `sliding_window - 1` tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checkpoint_tools.families.family import Derived, Fields
from harness.config.model import ModelConfig
from harness.errors import CheckpointError

FULL = "full_attention"
SLIDING = "sliding_attention"
_FIELDS = ("window_size", "window_attn_skip_freq")
_SWITCH = "use_sliding_window"
TypesByDefault = Callable[[int, Fields], bool]
"""Says if a layer has a window where there are no `layer_types`."""


def _windows(size: int | None, flags: list[bool]) -> dict[str, Any]:
    """Return the fields of our model."""
    if size is None or not any(flags):
        return {"window_size": None, "window_attn_skip_freq": None}
    return {"window_size": size, "window_attn_skip_freq": None if all(flags) else [int(flag) for flag in flags]}


def _size(said: Fields, *, switch: bool) -> int | None:
    """Return the size of windows; None if they are off, where Qwen2-MoE says 0.

    Raises:
        CheckpointError: They are on, and see nothing.
    """
    if not said.get(_SWITCH, not switch):
        return None
    size = said.get("sliding_window")
    if size == 0:
        raise CheckpointError("sliding_window: 0 is not a whole number from 1 to 2,147,483,647")
    return size


def in_every_layer(*, switch: bool = False) -> Derived:
    """Return the keys of families in which every layer has a window, or none; with `switch` one key turns them on."""

    def read(said: Fields) -> dict[str, Any]:
        size = _size(said, switch=switch)
        return _windows(size, [True])

    def write(model: ModelConfig) -> Fields:
        if not switch:
            return {"sliding_window": model.window_size}
        if model.window_size is None:
            return {_SWITCH: False}
        return {_SWITCH: True, "sliding_window": model.window_size}

    return Derived(
        keys=(*((_SWITCH,) if switch else ()), "sliding_window"),
        fields=_FIELDS,
        read=read,
        write=write,
        objections=lambda model: (
            ["some of its layers have a window, others not"]
            if model.window_size is not None and not all(model.windowed_layers)
            else []
        ),
    )


def by_layer(has_window: TypesByDefault, *keys: str, switch: bool = False) -> Derived:
    """Return the keys of families that say of each layer whether it has a window; `keys` are what the default asks."""

    def read(said: Fields) -> dict[str, Any]:
        layers = range(said.get("num_hidden_layers", 0))
        types = said.get("layer_types") or [SLIDING if has_window(layer, said) else FULL for layer in layers]
        size = _size(said, switch=switch)
        flags = [kind == SLIDING for kind in types]
        if size is None and any(flags) and "layer_types" in said:
            raise CheckpointError(f"layer_types: {SLIDING} in it, but no sliding_window")
        return _windows(size, flags)

    def write(model: ModelConfig) -> Fields:
        flags = list(model.windowed_layers)
        fields: Fields = {_SWITCH: any(flags)} if switch else {}
        if any(flags) or not switch:
            # Without a window its size says nothing, but a class may want a number.
            fields |= {"sliding_window": model.window_size or 4096}
            fields |= {"layer_types": [SLIDING if flag else FULL for flag in flags]}
        if "max_window_layers" in keys:
            # Readers that know no `layer_types` take it that the layers from this one on have a window.
            fields["max_window_layers"] = flags.index(True) if any(flags) else len(flags)
        return fields

    return Derived(
        keys=(*((_SWITCH,) if switch else ()), "sliding_window", "layer_types", *keys),
        fields=_FIELDS,
        read=read,
        write=write,
    )


def _behind_the_first(layer: int, said: Fields) -> bool:
    return bool(layer >= said.get("max_window_layers", 28))


def _every_second(layer: int, _said: Fields) -> bool:
    return layer % 2 == 0


def _all_but_every_nth(layer: int, said: Fields) -> bool:
    return bool((layer + 1) % said.get("sliding_window_pattern", 6))


QWEN_WINDOWS = by_layer(_behind_the_first, "max_window_layers", switch=True)
"""Qwen2's and Qwen3's: the layers from `max_window_layers` on."""
QWEN_MOE_WINDOWS = by_layer(
    lambda layer, said: _every_second(layer, said) and not _behind_the_first(layer, said),
    "max_window_layers",
    switch=True,
)
"""Qwen2-MoE's: every second of the first layers, the very first among them."""
ALTERNATING = by_layer(_every_second)
"""Gemma 2's and gpt-oss's: every second layer, the first among them."""
MOST_LAYERS = by_layer(_all_but_every_nth, "sliding_window_pattern")
"""Gemma 3's: all layers but every sixth."""


def _read_scale(said: Fields) -> dict[str, Any]:
    scalar = said.get("query_pre_attn_scalar", 256)
    return {"softmax_scale": None if scalar == said.get("head_dim") else scalar**-0.5}


def _scalar(model: ModelConfig) -> float:
    return model.head_size if model.softmax_scale is None else model.softmax_scale**-2


SCALE = Derived(
    keys=("query_pre_attn_scalar",),
    fields=("softmax_scale",),
    read=_read_scale,
    write=lambda model: {"query_pre_attn_scalar": round(_scalar(model))},
    objections=lambda model: (
        ["its softmax_scale is not one over the square root of a whole number"]
        if abs(_scalar(model) - round(_scalar(model))) > 1e-6 * _scalar(model)
        else []
    ),
)
"""Gemma's factor of scores."""
CAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Keys and fields of Gemma's caps."""
