"""Hashes that are made right again after a change, so that what reads a file behind its hash is reached as well."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trees
import xxhash
from plain_readers import content_of

_CHECKSUM = re.compile(rb',\n  "checksum": "[0-9a-f]{16}"\n}\n\Z')


def draw_manifest(choose: random.Random, content: bytes) -> dict[str, Any]:
    return trees.draw_json(choose, _without_checksum(content))


def apply_manifest(content: bytes, changes: Sequence[dict[str, Any]]) -> bytes:
    """Changes a manifest, and gives it the checksum that fits."""
    return _with_checksum(trees.apply_json(_without_checksum(content), changes))


def seal_checkpoint(folder: Path) -> None:
    """Makes a manifest say of its files what they are."""
    path = folder / "manifest.json"
    try:
        fields = json.loads(_without_checksum(content_of(path)))
        for name in fields["files"]:
            content = content_of(folder / name)
            fields["files"][name] |= {"bytes": len(content), "xxh3": xxhash.xxh3_64_hexdigest(content)}
    except (OSError, ValueError, *trees.LOST_PLACE):
        return
    path.write_bytes(_with_checksum(json.dumps(fields).encode()))


def seal_channel(folder: Path) -> None:
    """Makes the list of a channel's parts say of each `.bin` what it is."""
    path = folder / "parts.jsonl"
    try:
        lines = [json.loads(line) for line in content_of(path).splitlines()]
        for fields in lines:
            content = content_of(folder / f"{fields['prefix']}.bin")
            fields |= {"bin_bytes": len(content), "xxh3": xxhash.xxh3_64_hexdigest(content)}
    except (OSError, ValueError, *trees.LOST_PLACE):
        return
    path.write_text("".join(json.dumps(fields) + "\n" for fields in lines))


def _without_checksum(content: bytes) -> bytes:
    return _CHECKSUM.sub(b"\n}\n", content)


def _with_checksum(content: bytes) -> bytes:
    body = content.rstrip().removesuffix(b"}").rstrip()
    checksum = xxhash.xxh3_64_hexdigest(body + b"\n}\n").encode()
    return body + b',\n  "checksum": "' + checksum + b'"\n}\n'


SEALS: dict[str, Callable[[Path], None]] = {"checkpoint": seal_checkpoint, "channel": seal_channel}
