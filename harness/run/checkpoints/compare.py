"""Compares two fingerprints field by field: is this the model, the data and the tokenizer of the checkpoint?

A fingerprint is nested JSON. A list called `parts` holds objects with a `prefix`: the parts of a channel in the order
in which they are read. A run may add parts at the end while it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TypeGuard

from harness.errors import CheckpointError

PARTS = "parts"
PREFIX = "prefix"
MAY_CHANGE = (
    "model.init_method_std",
    "model.z_loss_coefficient",
    "model.moe_router_bias_update_rate",
    "model.moe_router_load_balancing_type",
    "model.moe_aux_loss_coeff",
    "model.moe_z_loss_coeff",
    "model.moe_token_dispatcher_type",
    "model.mtp_loss_scaling_factor",
    "data.reset_at_document_borders",
    "data.eod_mask_loss",
)
"""Fields that a run may change on its way: with another value weights mean what they meant, and samples are the same
ones. What is not here is refused."""
_MAX_LINES_PER_LIST = 10
_MAX_VALUE_LENGTH = 80

Fields = Mapping[str, object]


def differences(old: Fields, new: Fields, *, allow_added_parts: bool = False) -> list[str]:
    """Return one line for each field that differs, in the order of `old`; none if the fingerprints agree.

    With `allow_added_parts`, parts that come after all the checkpoint's parts of a channel are not a difference. Fields
    that may change never are.
    """
    return [line for line in _of_fields("", old, new, allow_added_parts) if not _may_change(line)]


def changed_on_the_way(old: Fields, new: Fields) -> list[str]:
    """Return one line for each field that differs and may (see `MAY_CHANGE`)."""
    return [line for line in _of_fields("", old, new, allow_added=True) if _may_change(line)]


def require_same(old: Fields, new: Fields, *, allow_added_parts: bool = False) -> None:
    """Refuse to go on from a checkpoint of another model, other data or another tokenizer.

    Raises:
        CheckpointError: The fingerprints differ. Lists every difference.
    """
    lines = differences(old, new, allow_added_parts=allow_added_parts)
    if lines:
        raise CheckpointError(
            "The checkpoint does not belong to this configuration:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nGive the configuration and the data with which it was saved, "
            "or another --run-dir to train this configuration from the start."
        )


def _may_change(line: str) -> bool:
    return line.partition(": ")[0] in MAY_CHANGE


def _of_fields(place: str, old: Fields, new: Fields, allow_added: bool) -> Iterator[str]:
    for key in [*old, *(key for key in new if key not in old)]:
        below = f"{place}.{key}" if place else key
        if key not in new:
            yield f"{below}: checkpoint {_shown(old[key])}, now absent"
        elif key not in old:
            yield f"{below}: checkpoint absent, now {_shown(new[key])}"
        else:
            yield from _of_values(below, old[key], new[key], allow_added)


def _of_values(place: str, old: object, new: object, allow_added: bool) -> Iterator[str]:
    if place.endswith(f".{PARTS}") and _are_parts(old) and _are_parts(new):
        yield from _of_parts(place, _by_prefix(old), _by_prefix(new), allow_added)
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _of_fields(place, old, new, allow_added)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        yield from _limited(line for i, (a, b) in pairs for line in _of_values(f"{place}[{i}]", a, b, allow_added))
    elif _json(old) != _json(new) and not _equal_numbers(old, new):
        yield f"{place}: checkpoint {_shown(old)}, now {_shown(new)}"


def _of_parts(place: str, old: dict[str, Fields], new: dict[str, Fields], allow_added: bool) -> Iterator[str]:
    kept = [prefix for prefix in old if prefix in new]
    changed = (
        line for prefix in kept for line in _of_fields(f"{place}[{prefix}]", old[prefix], new[prefix], allow_added)
    )
    yield from _limited(changed)
    yield from _limited(f"{place}: {prefix!r} of the checkpoint is gone" for prefix in old if prefix not in new)
    order = [prefix for prefix in new if prefix in old]
    if order != kept:
        first, instead = next((a, b) for a, b in zip(kept, order, strict=True) if a != b)
        yield f"{place}: the order differs, first where the checkpoint has {first!r} and now is {instead!r}"
    last_known = max((number for number, prefix in enumerate(new) if prefix in old), default=-1)
    early = (prefix for number, prefix in enumerate(new) if prefix not in old and number < last_known)
    yield from _limited(f"{place}: {prefix!r} was added before parts of the checkpoint" for prefix in early)
    if not allow_added:
        late = (prefix for number, prefix in enumerate(new) if prefix not in old and number > last_known)
        yield from _limited(f"{place}: {prefix!r} was added at the end" for prefix in late)


def _are_parts(value: object) -> TypeGuard[list[Fields]]:
    """Return whether a value is a list of objects with a `prefix` each, all different."""
    if not isinstance(value, list | tuple):
        return False
    prefixes = [item.get(PREFIX) for item in value if isinstance(item, Mapping)]
    return all(isinstance(prefix, str) for prefix in prefixes) and len(set(prefixes)) == len(value)


def _by_prefix(parts: list[Fields]) -> dict[str, Fields]:
    return {str(part[PREFIX]): part for part in parts}


def _limited(lines: Iterator[str]) -> Iterator[str]:
    """Yield the first differences, then how many more there are."""
    more = 0
    for number, line in enumerate(lines):
        if number < _MAX_LINES_PER_LIST:
            yield line
        else:
            more += 1
    if more:
        yield f"… and {more} more of this kind"


def _equal_numbers(old: object, new: object) -> bool:
    """Return whether two numbers are equal: 1 and 1.0 are, true and 1 are not."""
    numbers = (int, float)
    both = isinstance(old, numbers) and isinstance(new, numbers) and bool not in (type(old), type(new))
    return both and old == new


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _shown(value: object) -> str:
    text = _json(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 1] + "…"
