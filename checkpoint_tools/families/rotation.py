"""Rotary positions in a `config.json`, in the spelling of transformers 4 (`rope_scaling`) and of 5 (`rope_parameters`).

```
{"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, …}}      4; older files say "type"
{"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, …}}   5
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoint_tools.families.family import Fields
from checkpoint_tools.families.json_values import TRUTH, Kind, number, same, says_nothing, shown, whole
from harness.config.model import ModelConfig
from harness.config.rope_scaling import RopeScalingConfig
from harness.errors import CheckpointError

_LENGTH = "original_max_position_embeddings"
"""Some files say it beside the object, where transformers takes it from too."""
KEYS = ("rope_theta", "rope_parameters", "rope_scaling", _LENGTH)
_OBJECTS = ("rope_parameters", "rope_scaling")
_DEFAULT = "default"
DYNAMIC = "dynamic"
"""Stretches only sequences beyond `max_position_embeddings`: up to there it is nothing."""
_BASE = number(1.0, 1e18)
_FACTOR = number(1e-3, 1e6)
_SHARE = number(0.0, 1e6)
_VALUES: Mapping[str, Kind] = {
    "factor": _FACTOR,
    "low_freq_factor": _FACTOR,
    "high_freq_factor": _FACTOR,
    _LENGTH: whole(2**31 - 1),
    "beta_fast": _FACTOR,
    "beta_slow": _FACTOR,
    "mscale": _SHARE,
    "mscale_all_dim": _SHARE,
    "attention_factor": _FACTOR,
    "truncate": TRUTH,
}
_NEEDED: Mapping[str, frozenset[str]] = {
    _DEFAULT: frozenset(),
    DYNAMIC: frozenset({"factor"}),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", _LENGTH}),
    "yarn": frozenset({"factor", _LENGTH}),
}
_MSCALES = ("mscale", "mscale_all_dim")
_OPTIONAL: Mapping[str, frozenset[str]] = {
    "yarn": frozenset({"beta_fast", "beta_slow", *_MSCALES, "attention_factor", "truncate"})
}
_SAYS_NONE = {"partial_rotary_factor": 1.0, "factor": 1.0}
"""Keys of a type that does not use them, with the value that changes nothing."""


@dataclass(kw_only=True)
class Rotation:
    """The rotary positions that a `config.json` describes, and what is wrong with the description."""

    kind: str = _DEFAULT
    scaling: Fields = field(default_factory=dict)
    """The values that the type uses, plain."""
    base: float | None = None
    """None: the default of the family's class."""
    loses_temperature: bool = False
    """True if `mscale_all_dim` says something that only scores of latent attention would show."""
    passed_over: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_fields(self) -> Fields:
        """Return the keys as transformers 5 takes them; none where its class decides."""
        if self.kind == _DEFAULT and self.base is None:
            return {}
        base = {} if self.base is None else {"rope_theta": self.base}
        return {"rope_parameters": {"rope_type": self.kind, **base, **self.scaling}}

    def as_model_field(self) -> Fields | None:
        """Return the field `rope_scaling` of our model, which has no setting for `dynamic`."""
        return None if self.kind in (_DEFAULT, DYNAMIC) else {"type": self.kind, **self.scaling}


def read_rotation(fields: Fields) -> Rotation:
    """Return the rotary positions of a `config.json`; what is wrong with them is in `problems`."""
    result = Rotation()
    found: dict[str, tuple[str, Fields]] = {}
    for key in _OBJECTS:
        said = fields.get(key)
        if said is None or said is False or said == {}:
            continue
        if not isinstance(said, dict):
            result.problems.append(f"{key}: {shown(said)} is not an object")
        elif (read := _read_object(key, said, fields.get(_LENGTH), result)) is not None:
            found[key] = read
    _read_base(fields, result)
    if len(found) == len(_OBJECTS) and found["rope_parameters"] != found["rope_scaling"]:
        result.problems.append("rope_parameters and rope_scaling contradict each other. Delete one of them")
    for kind, scaling in found.values():
        result.kind, result.scaling = kind, scaling
    _check_length(fields.get(_LENGTH), result)
    return result


def dynamic_scaling(fields: Fields) -> Fields | None:
    """Return the setting that stretches only sequences beyond `max_position_embeddings`, if a `config.json` has it.

    Our model has no such setting: the function is the same up to that length.
    """
    for key in _OBJECTS:
        said = fields.get(key)
        if isinstance(said, dict) and DYNAMIC in (said.get("rope_type"), said.get("type")):
            return {name: value for name, value in said.items() if name != "rope_theta"}
    return None


def rotary_fields(model: ModelConfig) -> Fields:
    """Return the keys for rotary positions; the same for all models with the same frequencies."""
    scaling, base = model.rope_scaling, model.rotary_base
    if scaling is None:
        return {"rope_theta": base, "rope_scaling": None}
    if scaling.type == "ntk":
        # A fixed stretching is nothing but another base.
        size = model.rotary_size
        return {"rope_theta": base * scaling.factor ** (size / (size - 2)), "rope_scaling": None}
    kept = {name: getattr(scaling, name) for name in sorted(_NEEDED[scaling.type])}
    if scaling.type == "yarn":
        kept |= _yarn_fields(scaling)
    return {"rope_theta": base, "rope_scaling": {"rope_type": scaling.type, **kept}}


def _yarn_fields(scaling: RopeScalingConfig) -> Fields:
    """Return the keys that are not needed; for the magnification those of which transformers makes the same number."""
    fields: Fields = {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    if not scaling.truncate:
        fields["truncate"] = False
    if scaling.attention_factor is None and scaling.mscale and scaling.mscale_all_dim:
        return fields | {name: getattr(scaling, name) for name in _MSCALES}
    if scaling.magnification != RopeScalingConfig(type="yarn", factor=scaling.factor).magnification:
        fields["attention_factor"] = scaling.magnification
    return fields


def _check_length(beside: object, result: Rotation) -> None:
    """Hold the length that is said beside the object against the one in it."""
    if beside is None or result.problems:
        return
    if _LENGTH not in result.scaling:
        result.passed_over.append(_LENGTH)
    elif not same(beside, result.scaling[_LENGTH]):
        result.problems.append(f"two of {_LENGTH}: {shown(beside)}, and {result.scaling[_LENGTH]} in the object")


def _read_object(key: str, said: Fields, length: object, result: Rotation) -> tuple[str, Fields] | None:
    """Return the type and its values; None if there is a problem, which is noted."""
    # `truncate: null` means false to transformers, so that it is not the same as a missing key.
    rest = {
        name: said[name] for name in said if (said[name] is not None or name == "truncate") and name != "rope_theta"
    }
    kinds = [rest.pop(name) for name in ("rope_type", "type") if name in rest]
    kind: Any = kinds[0] if kinds else _DEFAULT
    if kinds and not same(kind, kinds[-1]):
        result.problems.append(f"{key}: rope_type {shown(kind)} and type {shown(kinds[-1])} contradict each other")
        return None
    if not isinstance(kind, str) or kind not in _NEEDED:
        result.problems.append(f"{key}: type {shown(kind)}, known are {', '.join(_NEEDED)}")
        return None
    needed = _NEEDED[kind]
    known = needed | _OPTIONAL.get(kind, frozenset())
    if _LENGTH in known and length is not None:
        rest.setdefault(_LENGTH, length)
    said_default = bool(kinds) and kind == _DEFAULT
    unused = [name for name in rest if name not in known and _changes_nothing(name, rest[name], said_default)]
    result.passed_over += [f"{key}.{name}" for name in unused]
    rest = {name: value for name, value in rest.items() if name not in unused}
    if not needed <= set(rest) <= known:
        more = "" if needed == known else f", needed are {sorted(needed)}"
        result.problems.append(
            f"{key}: {kind} with {[ascii(name)[1:-1][:60] for name in sorted(rest)]}, known is {sorted(known)}{more}. "
            "Delete what is only a remark"
        )
        return None
    return _read_values(key, kind, rest, result)


def _read_values(key: str, kind: str, rest: Fields, result: Rotation) -> tuple[str, Fields] | None:
    plain: Fields = {}
    before = len(result.problems)
    for name, value in rest.items():
        try:
            plain[name] = _VALUES[name].read(f"{key}.{name}", value)
        except CheckpointError as error:
            result.problems.append(str(error))
    if len(result.problems) > before:
        return None
    if kind == "llama3" and not plain["low_freq_factor"] < plain["high_freq_factor"]:
        result.problems.append(
            f"{key}.low_freq_factor: {plain['low_freq_factor']} must be smaller than high_freq_factor, "
            f"{plain['high_freq_factor']}"
        )
    if kind == "yarn":
        _drop_unused_mscales(key, plain, result)
    return kind, plain


def _drop_unused_mscales(key: str, plain: Fields, result: Rotation) -> None:
    """Leave `mscale` and `mscale_all_dim` out where transformers does not read them: it wants both, and no factor."""
    if "attention_factor" in plain or not all(plain.get(name) for name in _MSCALES):
        result.loses_temperature = bool(plain.get("mscale_all_dim"))
        result.passed_over += [f"{key}.{name}" for name in _MSCALES if plain.pop(name, None) is not None]


def _changes_nothing(name: str, value: object, said_default: bool) -> bool:
    """Return whether a key is nothing for a type that does not use it.

    Beside a type that is said to be `default` a factor has no effect; without a type it may be another type's.
    """
    if name == _LENGTH or says_nothing(value) or (name in _SAYS_NONE and same(value, _SAYS_NONE[name])):
        return True
    return said_default and name == "factor" and _FACTOR.plain(value) is not None


def _read_base(fields: Fields, result: Rotation) -> None:
    objects = {key: fields.get(key) for key in _OBJECTS}
    said = {"rope_theta": fields.get("rope_theta")} | {
        f"rope_theta in {key}": found.get("rope_theta") for key, found in objects.items() if isinstance(found, dict)
    }
    bases: dict[str, Any] = {}
    for key, value in said.items():
        try:
            if value is not None:
                bases[key] = _BASE.read(key, value)
        except CheckpointError as error:
            result.problems.append(str(error))
    if len(set(bases.values())) > 1:
        result.problems.append(f"two bases: {', '.join(f'{key} {shown(value)}' for key, value in bases.items())}")
    for value in bases.values():
        result.base = value
