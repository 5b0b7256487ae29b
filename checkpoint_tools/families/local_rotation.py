"""Rotary positions of layers with a window beside those of the others, as Gemma 3 has them in its `config.json`.

```
{"rope_theta": 1e6, "rope_scaling": {…}, "rope_local_base_freq": 1e4}                          transformers 4
{"rope_parameters": {"full_attention": {"rope_theta": 1e6, …}, "sliding_attention": {"rope_theta": 1e4, …}}}     5
```
"""

from __future__ import annotations

from checkpoint_tools.families.family import Fields
from checkpoint_tools.families.json_values import shown
from checkpoint_tools.families.windows import FULL, SLIDING

LOCAL_BASE_KEY = "rope_local_base_freq"
_KINDS = (FULL, SLIDING)


def with_one_rotation(fields: Fields, problems: list[str]) -> Fields:
    """Return a `config.json` in the first spelling; what is wrong with the second one is noted."""
    said = fields.get("rope_parameters")
    if not isinstance(said, dict) or not set(said) & set(_KINDS):
        return fields
    rest = {key: value for key, value in fields.items() if key != "rope_parameters"}
    if unknown := sorted(set(said) - set(_KINDS)):
        problems.append(f"rope_parameters: {ascii(unknown[0])[1:-1][:60]} beside {FULL} and {SLIDING}")
        return rest
    full, local = (said.get(kind) for kind in _KINDS)
    if isinstance(full, dict):
        rest["rope_parameters"] = full
    elif full is not None:
        problems.append(f"rope_parameters.{FULL}: {shown(full)} is not an object")
    if isinstance(local, dict):
        _read_local(local, rest, problems)
    elif local is not None:
        problems.append(f"rope_parameters.{SLIDING}: {shown(local)} is not an object")
    return rest


def _read_local(local: Fields, rest: Fields, problems: list[str]) -> None:
    unknown = [key for key, value in local.items() if key != "rope_theta" and (key, value) != ("rope_type", "default")]
    if unknown:
        problems.append(
            f"rope_parameters.{SLIDING}: {ascii(unknown[0])[1:-1][:60]} is {shown(local[unknown[0]])}; known is a base "
            "alone, as rope_theta with rope_type default"
        )
    if local.get("rope_theta") is None:
        return
    base = rest.setdefault(LOCAL_BASE_KEY, local["rope_theta"])
    if base != local["rope_theta"]:
        problems.append(
            f"{LOCAL_BASE_KEY}: {shown(base)}, but rope_parameters.{SLIDING} says {shown(local['rope_theta'])}"
        )


def with_both_rotations(rotary: Fields, base: object) -> Fields:
    """Return rotary settings as transformers 5 takes them, with those of layers with a window."""
    full = {"rope_type": "default", **rotary.get("rope_parameters", {})}
    return {"rope_parameters": {FULL: full, SLIDING: {"rope_type": "default", "rope_theta": base}}}
