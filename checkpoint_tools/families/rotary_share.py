"""The share of each head that is rotated: beside the rotary settings of a `config.json`, or among them."""

from __future__ import annotations

from dataclasses import dataclass

from checkpoint_tools.families.family import Fields
from checkpoint_tools.families.json_values import number
from harness.errors import CheckpointError

SHARE_KEY = "partial_rotary_factor"
_OBJECTS = ("rope_parameters", "rope_scaling")
_SHARE = number(1e-3, 1.0)


@dataclass(frozen=True)
class RotaryShare:
    """Values of the share in a file, by the places where they stand."""

    said: dict[str, object]

    def read(self, default: float | None, problems: list[str]) -> float:
        """Return the share; what is wrong with it is noted."""
        found: dict[str, object] = {}
        for place, value in self.said.items():
            try:
                found[place] = _SHARE.read(place, value)
            except CheckpointError as error:
                problems.append(str(error))
        if len(set(found.values())) > 1:
            problems.append(f"two of {SHARE_KEY}: {', '.join(f'{place} {value}' for place, value in found.items())}")
        value = next(iter(found.values()), default)
        return value if isinstance(value, float) else 1.0


def rotary_share(fields: Fields) -> RotaryShare:
    """Return what a `config.json` says of the share, null left out."""
    places = {SHARE_KEY: fields.get(SHARE_KEY)}
    for key in _OBJECTS:
        if isinstance(settings := fields.get(key), dict):
            places[f"{key}.{SHARE_KEY}"] = settings.get(SHARE_KEY)
    return RotaryShare({place: value for place, value in places.items() if value is not None})


def without_rotary_share(fields: Fields) -> Fields:
    """Return a `config.json` that does not speak of the share."""
    inside = {key: fields[key] for key in _OBJECTS if isinstance(fields.get(key), dict)}
    cleaned = {key: {name: one for name, one in value.items() if name != SHARE_KEY} for key, value in inside.items()}
    return {key: value for key, value in {**fields, **cleaned}.items() if key != SHARE_KEY}


def with_rotary_share(rotary: Fields, share: float) -> Fields:
    """Return rotary settings as transformers 5 takes them, with the share among them."""
    settings = {"rope_type": "default", **rotary.get("rope_parameters", {})}
    return {"rope_parameters": {**settings, SHARE_KEY: share}}
