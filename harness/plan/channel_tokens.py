"""Counts the tokens that a channel has now, from its list of parts or from the size of its one file."""

from __future__ import annotations

from harness.channels.channels import PARTS_FILE, bare_part, listed_parts
from harness.config.schema import ChannelConfig
from harness.errors import DataError


def tokens_to_train_on(channel: ChannelConfig, held_out_share: float) -> int | None:
    """Return the tokens of one epoch, roughly without the held-out ones; None if the data cannot be read (yet)."""
    path = channel.path
    try:
        parts = listed_parts(path / PARTS_FILE) if (path / PARTS_FILE).exists() else (bare_part(path),)
    except (OSError, DataError):
        return None
    if not parts:
        return None
    held_out = 0.0 if channel.validation_path is not None else held_out_share
    return sum(part.num_tokens for part in parts) - int(held_out * parts[0].num_tokens)
