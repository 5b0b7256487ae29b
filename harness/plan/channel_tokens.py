"""Counts the tokens that a channel has now, from its list of parts or from the size of its one file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from harness.config.schema import ChannelConfig

_PARTS_FILE = "parts.jsonl"
_INDEX_HEADER = struct.Struct("<9sQB")
"""Magic, version and token type of a `.idx` file."""
_MAGIC = b"MMIDIDX\x00\x00"
_TOKEN_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}
"""Bytes of a token by its type number in the `.idx` (Megatron-Core: `DType`); those that hold whole numbers."""


def tokens_to_train_on(channel: ChannelConfig, held_out_share: float) -> int | None:
    """Return the tokens of one epoch, roughly without the held-out ones; None if the data cannot be read (yet)."""
    parts = _part_tokens(channel.path)
    if not parts:
        return None
    held_out = 0.0 if channel.validation_path is not None else held_out_share
    return sum(parts) - int(held_out * parts[0])


def _part_tokens(path: Path) -> list[int]:
    try:
        if (path / _PARTS_FILE).exists():
            lines = (path / _PARTS_FILE).read_bytes().split(b"\n")[:-1]
            return [int(json.loads(line)["tokens"]) for line in lines]
        with Path(f"{path}.idx").open("rb") as index:
            magic, _, kind = _INDEX_HEADER.unpack(index.read(_INDEX_HEADER.size))
        return [Path(f"{path}.bin").stat().st_size // _TOKEN_BYTES[kind]] if magic == _MAGIC else []
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return []
