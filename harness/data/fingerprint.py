"""What a checkpoint remembers of its data; `harness.checkpoint.compare` holds a resumed run against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.data.channels import Channel
from harness.data.parts import Part
from harness.data.recipe import Recipe


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
                "parts": [_numbers(part) for part in channel.parts],
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
    known = recorded.get("channels", {}).get(channel.name, {}).get("parts", [])
    names = [part.name for part in channel.parts]
    if known and names[: len(known)] == [part["prefix"] for part in known]:
        return replace(channel, parts=channel.parts[: len(known)])
    return channel


def _numbers(part: Part) -> dict[str, Any]:
    return {
        "prefix": part.name,
        "tokens": part.num_tokens,
        "documents": part.num_documents,
        "bin_bytes": part.bin_bytes,
        "xxh3": part.xxh3,
    }
