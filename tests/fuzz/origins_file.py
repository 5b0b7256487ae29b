"""Changes of a `.provenance` file: its tail, the entries within its blocks, and its names; its hash fits afterwards."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import xxhash

Change = dict[str, Any]

_TAIL = struct.Struct("<6Q8s")
_FIELDS = ("entries", "owner", "blocks_end", "names_packed", "names_plain")
_BOUNDS = (0, 1, 7, 1024, 2**31, 2**32, 2**32 + 1, 2**40, 2**53, 2**63 - 1, 2**63, 2**64 - 1)


def draw_origins(choose: random.Random, content: bytes) -> Change:
    """A field of the tail, the end of a block, a byte of a block as it is unpacked, or one of the names."""
    kind = choose.choice(["field", "end", "block", "block", "names"])
    value = choose.choice([choose.choice(_BOUNDS), choose.randrange(2**16), choose.randrange(2**64)])
    if kind == "field":
        return {"field": choose.choice(_FIELDS), "value": value}
    plain = _unpacked(_piece(content, kind))
    return {"piece": kind, "at": choose.randrange(max(1, len(plain))), "value": value % 256, "end": value}


def apply_origins(content: bytes, change: Change) -> bytes:
    """A file that is not one any more stays as it is."""
    if len(content) < 8 + _TAIL.size:
        return content
    numbers = list(_TAIL.unpack(content[-_TAIL.size :]))
    body = content[: -_TAIL.size]
    if "field" in change:
        numbers[_FIELDS.index(change["field"])] = change["value"] % 2**64
        return _sealed(body, numbers)
    if change["piece"] == "end":
        return _sealed(body[:-8] + (change["end"] % 2**64).to_bytes(8, "little"), numbers)
    packed = _piece(content, change["piece"])
    plain = bytearray(_unpacked(packed))
    if not packed or not plain:
        return content
    plain[change["at"] % len(plain)] = change["value"]
    new = zlib.compress(bytes(plain), 9)
    at = 8 if change["piece"] == "block" else numbers[2]
    body = body[:at] + new + body[at + len(packed) :]
    if change["piece"] == "names":
        numbers[3] = len(new)
        return _sealed(body, numbers)
    grown = len(new) - len(packed)
    numbers[2] = (numbers[2] + grown) % 2**64
    count = -(-numbers[0] // 1024)
    if 0 < 8 * count <= len(body):
        ends = [(end + grown) % 2**64 for end in struct.unpack(f"<{count}Q", body[-8 * count :])]
        body = body[: -8 * count] + struct.pack(f"<{count}Q", *ends)
    return _sealed(body, numbers)


def _piece(content: bytes, kind: str) -> bytes:
    """The first block, or the names, as they are packed."""
    if len(content) < 8 + _TAIL.size:
        return b""
    entries, _, blocks_end, names_packed, *_ = _TAIL.unpack(content[-_TAIL.size :])
    if kind == "names":
        return content[blocks_end : blocks_end + names_packed]
    count = -(-entries // 1024)
    if not 0 < 8 * count < len(content) - _TAIL.size:
        return b""
    begin = len(content) - _TAIL.size - 8 * count
    return content[8 : int.from_bytes(content[begin : begin + 8], "little")]


def _unpacked(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, 1 << 24)
    except zlib.error:
        return b""


def _sealed(body: bytes, numbers: list[Any]) -> bytes:
    numbers[5] = 0
    numbers[5] = xxhash.xxh3_64_intdigest(body + _TAIL.pack(*numbers))
    return body + _TAIL.pack(*numbers)
