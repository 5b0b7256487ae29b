"""The identity of a run's data in a checkpoint; `harness.run.checkpoints.compare` compares a resumed run with it.

As in `harness.config.identity`, a field at its default (of `Recipe`, `PhaseRecipe`, `ChannelRules`) is left out, and an
absent one means the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from fractions import Fraction
from typing import Any, TypeVar

from harness.channels.channels import Channel, PartsDigest, parts_digest
from harness.channels.parts import Part
from harness.config.identity import filled_in
from harness.config.model import ModelConfig
from harness.data.order.recipe import ChannelRules, PhaseRecipe, Recipe
from harness.errors import DataError
from harness.run.order_changes import History, PartsAdopted, num_parts_of, phase_of

_Settings = TypeVar("_Settings", Recipe, PhaseRecipe, ChannelRules)
_TOLD_APART = ("shares", "later_phases", "rules")
MOST_LISTED = 1000
"""Parts of a channel that are listed one by one. Of more, the number and the digest are told: every checkpoint has a
fingerprint, and every list of checkpoints reads it."""
_LISTED, _DIGEST = "parts", "parts_digest"


def digest_of_first(channel: Channel, num_parts: int) -> str:
    """Return the digest of the first parts of a channel, from all of them."""
    return parts_digest(channel.parts[:num_parts])


def data_fingerprint(
    channels: Sequence[Channel],
    recipe: Recipe,
    history: History = (),
    digest_of: Callable[[Channel, int], str] = digest_of_first,
) -> dict[str, Any]:
    """Return everything that has determined the samples of a run so far, as plain JSON values.

    Left out are channels that no phase uses, phases that have not begun, and parts that the history has not adopted.
    The channels come with all parts that are known. `digest_of` is for somebody who knows the digests already.
    """
    adopted = num_parts_of(history)
    later = recipe.phases[1 : phase_of(history) + 1]
    rules = {
        name: told for name, rules in recipe.rules.items() if name in recipe.channel_names and (told := _told(rules))
    }
    return {
        **_told(recipe),
        "shares": _plain(recipe.shares),
        "channels": {
            channel.name: {
                "has_validation_path": channel.validation_parts is not None,
                **_parts_of(channel, adopted.get(channel.name, len(channel.parts)), digest_of),
            }
            for channel in channels
            if channel.name in recipe.channel_names
        },
        **({"later_phases": [_told(phase) | {"shares": _plain(phase.shares)} for phase in later]} if later else {}),
        **({"rules": rules} if rules else {}),
    }


def recorded_parts(recorded: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of parts of each channel in a checkpoint's fingerprint; empty if the run had used no data."""
    channels = (recorded.get("data") or {}).get("channels") or {}  # a manifest may say null
    return {
        name: digest["num_parts"] if (digest := channel.get(_DIGEST)) else len(channel.get(_LISTED) or ())
        for name, channel in channels.items()
    }


def require_adopted(channels: Sequence[Channel], history: History) -> None:
    """Check that the parts that a history adopted are still those that the channels begin with.

    Raises:
        DataError: They are not.
    """
    by_name = {channel.name: channel for channel in channels}
    last = {change.channel: change for change in history if isinstance(change, PartsAdopted)}
    for name, change in last.items():
        parts = by_name[name].parts[: change.num_parts] if name in by_name else ()
        if name in by_name and parts_digest(parts) != change.digest:
            raise DataError(
                f"channel {name}: its first {change.num_parts} parts are not those that the run has adopted (digest "
                f"{parts_digest(parts)}, adopted {change.digest}). Lines may only be appended to a list of parts: "
                "restore it, or start a new run."
            )


def _parts_of(channel: Channel, num_parts: int, digest_of: Callable[[Channel, int], str]) -> dict[str, Any]:
    """Return the first parts of a channel as they stand in a fingerprint."""
    if num_parts <= MOST_LISTED:
        return {_LISTED: [_part_json(part) for part in channel.parts[:num_parts]]}
    return {_DIGEST: {"num_parts": num_parts, "xxh3": digest_of(channel, num_parts)}}


def _shortened(channel: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a channel of a fingerprint as this version writes it. Earlier ones listed any number of parts."""
    listed = channel.get(_LISTED) or ()
    if len(listed) <= MOST_LISTED:
        return channel
    digest = PartsDigest().followed_by_rows(list(part.values()) for part in listed).text
    others = {name: value for name, value in channel.items() if name != _LISTED}
    return {**others, _DIGEST: {"num_parts": len(listed), "xxh3": digest}}


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "prefix": part.name,
        "tokens": part.num_tokens,
        "documents": part.num_documents,
        "bin_bytes": part.bin_bytes,
        "xxh3": part.xxh3,
    }


def fingerprint_filled_in(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's fingerprint with every field of the model and the data that it leaves out.

    Args:
        fingerprint: With what `identity_of` wrote under `model` and `data_fingerprint` under `data`, or what a version
            wrote there that knew fewer fields or left none out.
    """
    whole = dict(fingerprint)
    if isinstance(model := fingerprint.get("model"), Mapping):
        whole["model"] = filled_in(model, ModelConfig)
    if isinstance(data := fingerprint.get("data"), Mapping):
        whole["data"] = _data_filled_in(data)
    return whole


def _data_filled_in(data: Mapping[str, Any]) -> dict[str, Any]:
    whole = _settings_filled_in(data, Recipe)
    if isinstance(channels := data.get("channels"), Mapping):
        whole["channels"] = {name: _shortened(channel) for name, channel in channels.items()}
    if whole.get("held_out_share") == 0 and isinstance(channels := whole.get("channels"), Mapping):
        # Where nothing is held out of the parts, held-out documents of its own change no sample of a channel.
        whole["channels"] = {name: {**channel, "has_validation_path": False} for name, channel in channels.items()}
    if isinstance(phases := data.get("later_phases"), list):
        whole["later_phases"] = [_settings_filled_in(phase, PhaseRecipe) for phase in phases]
    if isinstance(rules := data.get("rules"), Mapping):
        whole["rules"] = {name: _settings_filled_in(told, ChannelRules) for name, told in rules.items()}
    return whole


def _told(settings: Recipe | PhaseRecipe | ChannelRules) -> dict[str, Any]:
    """Return the fields whose value is not the default, without those that `_TOLD_APART` names."""
    values = {field: getattr(settings, field.name) for field in _fields(type(settings))}
    return {field.name: _plain(value) for field, value in values.items() if value != field.default}


def _settings_filled_in(told: Mapping[str, Any], kind: type[_Settings]) -> dict[str, Any]:
    """Return the fields that `_told` returned, with the defaults that it left out, in the order of the class."""
    known = {field.name: told.get(field.name, _plain(field.default)) for field in _fields(kind)}
    return {name: value for name, value in known.items() if value is not MISSING} | {
        name: value for name, value in told.items() if name not in known
    }


def _fields(kind: type[Recipe | PhaseRecipe | ChannelRules]) -> list[Field[Any]]:
    return [field for field in fields(kind) if field.name not in _TOLD_APART]


def _plain(value: object) -> object:
    """Return a plain JSON value."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return str(value) if isinstance(value, Fraction) else value
