"""What a checkpoint remembers of its data, and how a resumed run is held against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.data.channels import Channel
from harness.data.parts import Part
from harness.data.recipe import Recipe
from harness.errors import CheckpointError

_MAX_DIFFERENCES = 20


def data_fingerprint(channels: Sequence[Channel], recipe: Recipe) -> dict[str, Any]:
    """Everything that decides the samples of a run, as plain JSON values. Channels outside the blend are left out."""
    return {
        "seed": recipe.seed,
        "seq_length": recipe.seq_length,
        "vocab_size": recipe.vocab_size,
        "held_out_share": recipe.held_out_share,
        "reset_at_document_borders": recipe.reset_at_document_borders,
        "shares": {name: str(share) for name, share in recipe.shares.items()},
        "channels": {
            channel.name: {
                "has_validation_path": channel.validation_parts is not None,
                "parts": {part.name: _numbers(part) for part in channel.parts},
            }
            for channel in channels
            if channel.name in recipe.shares
        },
    }


def as_recorded(channel: Channel, recorded: Mapping[str, Any]) -> Channel:
    """The channel cut to the parts that a checkpoint knew, so that parts finished since do not move its samples.

    Args:
        channel: The channel as it is now.
        recorded: What `data_fingerprint` wrote for the checkpoint.
    """
    known = recorded.get("channels", {}).get(channel.name, {}).get("parts", {})
    names = [part.name for part in channel.parts]
    if known and names[: len(known)] == list(known):
        return replace(channel, parts=channel.parts[: len(known)])
    return channel


def data_differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs, as lines `field: recorded -> current`. The order of parts counts, that of channels does not."""
    before, now = dict(_fields(recorded)), dict(_fields(current))
    names = [*before, *(name for name in now if name not in before)]
    missing = "(absent)"
    return [
        f"{name}: {before.get(name, missing)} -> {now.get(name, missing)}"
        for name in names
        if before.get(name, missing) != now.get(name, missing)
    ]


def require_same_data(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to resume on other data.

    Raises:
        CheckpointError: Something differs; the text has the first differences.
    """
    differences = data_differences(recorded, current)
    if differences:
        shown = "\n".join(f"  data.{line}" for line in differences[:_MAX_DIFFERENCES])
        more = len(differences) - _MAX_DIFFERENCES
        raise CheckpointError(
            f"the checkpoint was trained on other data (checkpoint -> now):\n{shown}"
            + (f"\n  … and {more} more" if more > 0 else "")
            + "\nRestore the data and settings of the checkpoint, or start a new run from its weights."
        )


def _numbers(part: Part) -> dict[str, Any]:
    return {
        "tokens": part.num_tokens,
        "documents": part.num_documents,
        "bin_bytes": part.bin_bytes,
        "xxh3": part.xxh3,
    }


def _fields(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            if name == "parts":
                yield f"{path}parts", ", ".join(value)
            yield from _fields(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
