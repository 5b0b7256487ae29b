"""Layers that have something: by a number, a list, or the text that Megatron's launch scripts give."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from harness.limits import MOST_LAYERS

_RUN = r"\[\s*[01](?:\s*,\s*[01])*\s*\](?:\s*\*\s*[0-9]{1,4})?"
_RUNS = rf"\s*{_RUN}(?:\s*\+\s*{_RUN})*\s*"
_TEXT = re.compile(rf"{_RUNS}|\s*\({_RUNS}\)\s*")
_LONGEST_TEXT = 4 * MOST_LAYERS


def _read(value: object) -> int | tuple[int, ...]:
    """Return a number from 1 on, or a flag of each layer.

    Raises:
        PydanticCustomError: It is neither, nor a text like `[0]*3+[1]*58`.
    """
    if isinstance(value, str) and len(value) <= _LONGEST_TEXT and _TEXT.fullmatch(value):
        return _from_text(value)
    if type(value) is int and 1 <= value <= MOST_LAYERS:
        return value
    if isinstance(value, list | tuple) and all(type(flag) is int and flag in (0, 1) for flag in value):
        return tuple(value)
    raise PydanticCustomError(
        "layer_flags",
        "must be a number from 1 on (for every n-th layer), a list of 0 and 1 for each layer, or a text like "
        "[0]*3+[1]*58",
    )


def _from_text(text: str) -> tuple[int, ...]:
    layers: list[int] = []
    for run in re.findall(_RUN, text):
        inside, _, times = run.partition("]")
        number = int(times.replace("*", "").strip() or 1)
        once = [int(digit) for digit in re.findall("[01]", inside)]
        if len(layers) + len(once) * number > MOST_LAYERS:
            raise PydanticCustomError("layer_flags", f"stands for more than {MOST_LAYERS} layers")
        layers += once * number
    return tuple(layers)


_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MOST_LAYERS},
        {"type": "array", "items": {"enum": [0, 1]}, "maxItems": MOST_LAYERS},
        {"type": "string", "pattern": "^[0-9, *+()[\\]]+$"},
    ]
}
LayerFlags = Annotated[int | tuple[int, ...], BeforeValidator(_read), WithJsonSchema(_SCHEMA)]
"""A number for every n-th layer, or a flag of each layer."""


def from_first_on(layers: int | Sequence[int], num_layers: int) -> tuple[bool, ...]:
    """Return a flag of each layer: a number n stands for every n-th, the first among them."""
    if isinstance(layers, int):
        return tuple(layer % layers == 0 for layer in range(num_layers))
    return tuple(map(bool, layers))


def all_but_every(layers: int | Sequence[int] | None, num_layers: int) -> tuple[bool, ...]:
    """Return a flag of each layer: a number n stands for all but every n-th, nothing for all."""
    if layers is None:
        return (True,) * num_layers
    if isinstance(layers, int):
        return tuple((layer + 1) % layers != 0 for layer in range(num_layers))
    return tuple(map(bool, layers))
