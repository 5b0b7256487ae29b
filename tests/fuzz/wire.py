"""Changes of protobuf messages by field, and of TensorBoard's records, whose checksums are made right again."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

Change = dict[str, Any]
_MOST_FIELDS = 4000


class Field(NamedTuple):
    """A field of a message; the value of kinds 0, 1 and 5 is a number, of kind 2 bytes."""

    number: int
    kind: int
    value: Any


def parse(message: bytes) -> list[Field]:
    """The fields of a message.

    Raises:
        ValueError: It is none.
    """
    fields, at = [], 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            fields.append(Field(key >> 3, kind, value))
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, at = _varint(message, at)
        if length is None or at + length > len(message):
            raise ValueError("no message")
        piece = message[at : at + length]
        fields.append(Field(key >> 3, kind, piece if kind == 2 else int.from_bytes(piece, "little")))
        at += length
    return fields


def spell(fields: list[Field]) -> bytes:
    return b"".join(_spelt(field) for field in fields)


def draw_message(choose: random.Random, message: bytes) -> Change:
    paths = list(_paths(message))
    path = choose.choice(paths)
    kind = choose.choice(["value"] * 5 + ["drop", "double", "number", "kind", "length"])
    change: Change = {"kind": kind, "at": path}
    if kind in ("value", "number"):
        change["to"] = choose.choice([0, 1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
        change["hex"] = choose.choice(
            ["", "00", "ff", "eda080", "1b5b324a", "e2808f", "61" * 300, "e29681", "3c2f733e", "f09f9880", "0a", "c3"]
        )
        change["double"] = choose.choice(["nan", "inf", "-inf", "-1", "1e-45", "3e38"])
    return change


def apply_message(message: bytes, change: Change) -> bytes:
    try:
        return _changed(message, change["at"], change)
    except (ValueError, IndexError):
        return message


def _changed(message: bytes, path: list[int], change: Change) -> bytes:
    fields = parse(message)
    at = path[0]
    field = fields[at]
    if len(path) > 1 and field.kind == 2:
        fields[at] = field._replace(value=_changed(field.value, path[1:], change))
        return spell(fields)
    kind = change["kind"]
    if kind == "drop":
        del fields[at]
    elif kind == "double":
        fields.insert(at, field)
    elif kind == "number":
        fields[at] = field._replace(number=change["to"] % 2**29 or 1)
    elif kind == "kind":
        fields[at] = Field(field.number, 0, 5) if field.kind else Field(field.number, 2, b"\x05")
    elif kind == "length":
        before, behind = spell(fields[:at]), spell(fields[at + 1 :])
        return before + _spelt_varint(field.number << 3 | 2) + _spelt_varint(2**31) + behind
    else:
        fields[at] = field._replace(value=_other_value(field.kind, change))
    return spell(fields)


def _other_value(kind: int, change: Change) -> Any:
    if kind == 2:
        return bytes.fromhex(change["hex"])
    if kind == 5:
        return int.from_bytes(struct.pack("<f", float(change["double"])), "little")
    if kind == 1:
        return int.from_bytes(struct.pack("<d", float(change["double"])), "little")
    return change["to"]


def _paths(message: bytes, path: tuple[int, ...] = ()) -> Iterator[list[int]]:
    for number, field in enumerate(parse(message)[:_MOST_FIELDS]):
        yield [*path, number]
        if field.kind == 2 and len(path) < 3:
            try:
                yield from _paths(field.value, (*path, number))
            except ValueError:
                continue


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("no number")
        value |= (message[at] & 127) << shift
        shift += 7
        at += 1
        if message[at - 1] < 128:
            return value, at


def _spelt(field: Field) -> bytes:
    key = _spelt_varint(field.number << 3 | field.kind)
    if field.kind == 0:
        return key + _spelt_varint(field.value)
    if field.kind == 2:
        return key + _spelt_varint(len(field.value)) + bytes(field.value)
    return key + int(field.value).to_bytes(8 if field.kind == 1 else 4, "little")


def _spelt_varint(value: int) -> bytes:
    value %= 2**64
    spelt = bytearray()
    while value > 127:
        spelt.append(value & 127 | 128)
        value >>= 7
    return bytes([*spelt, value])


# TensorBoard's records: length, its checksum, a message, its checksum.


def draw_records(choose: random.Random, content: bytes) -> Change:
    records = _records(content)
    at = choose.randrange(len(records))
    if choose.random() < 0.2:
        return {"record": at, "length": choose.choice([0, 1, 2**20, 2**31, 2**32, 2**63, 2**64 - 1])}
    return {"record": at, "inside": draw_message(choose, records[at])}


def apply_records(content: bytes, change: Change) -> bytes:
    records = _records(content)
    at = min(change["record"], len(records) - 1)
    if "inside" in change:
        records[at] = apply_message(records[at], change["inside"])
    spelt = [_record(record) for record in records]
    if "length" in change:
        length = change["length"].to_bytes(8, "little")
        spelt[at] = length + _checksum(length) + spelt[at][12:]
    return b"".join(spelt)


def _records(content: bytes) -> list[bytes]:
    found, at = [], 0
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        found.append(content[at + 12 : at + 12 + length])
        at += 16 + length
    return found


def _record(message: bytes) -> bytes:
    length = len(message).to_bytes(8, "little")
    return length + _checksum(length) + message + _checksum(message)


def _checksum(content: bytes) -> bytes:
    """TensorFlow's masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _table() -> tuple[int, ...]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return tuple(table)


_TABLE = _table()
