"""Formats of files: how a change is drawn for some content, and how changes are made. A change is plain JSON."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickletools
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import seals
import trees
import wire
from absurd import draw_value, encoded
from origins_file import apply_origins, draw_origins

Change = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """Two pure functions; a change that has lost its place does nothing."""

    draw: Callable[[random.Random, bytes], Change]
    apply: Callable[[bytes, Sequence[Change]], bytes]


def one_by_one(apply: Callable[[bytes, Change], bytes]) -> Callable[[bytes, Sequence[Change]], bytes]:
    def apply_all(content: bytes, changes: Sequence[Change]) -> bytes:
        for change in changes:
            content = apply(content, change)
        return content

    return apply_all


# Bytes of any file.


def draw_bytes(choose: random.Random, content: bytes) -> Change:
    size = len(content)
    at = choose.randrange(size + 1) if choose.random() < 0.6 else choose.choice([0, 1, min(64, size), size, size // 2])
    at = max(at, size - 64) if choose.random() < 0.15 else at
    kind = choose.choice(["flip", "flip", "cut", "zero", "put", "insert", "remove", "repeat"])
    length = choose.choice([1, 2, 4, 8, 16, 512, 4096])
    change: Change = {"kind": kind, "at": at}
    if kind == "flip":
        change["bit"] = choose.randrange(8)
    elif kind in ("zero", "remove"):
        change["length"] = length
    elif kind in ("put", "insert"):
        change["hex"] = choose.choice(
            ["ff", "00", "7f", "80", "0a", "0d", "1b5b324a", "efbbbf", "fffe", "c0af", "eda080", "22", "5c", "ffffffff"]
            + ["ffffff7f", "00000080", "ffffffffffffffff", "ffffffffffffff7f", "0000000000000080", "28b52ffd", "1f8b"]
            + [choose.randbytes(choose.choice([1, 4, 16])).hex()]
        )
    elif kind == "repeat":
        change |= {"length": length, "times": choose.choice([2, 10, 1000])}
    return change


def apply_bytes(content: bytes, change: Change) -> bytes:
    at = min(change["at"], len(content))
    kind = change["kind"]
    if kind == "flip" and at < len(content):
        return content[:at] + bytes([content[at] ^ 1 << change["bit"]]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "zero":
        end = min(len(content), at + change["length"])
        return content[:at] + bytes(end - at) + content[end:]
    if kind in ("put", "insert"):
        new = bytes.fromhex(change["hex"])
        return content[:at] + new + content[at + (len(new) if kind == "put" else 0) :]
    if kind == "remove":
        return content[:at] + content[at + change["length"] :]
    if kind == "repeat":
        piece = content[at : at + change["length"]]
        return content[:at] + piece * change["times"] + content[at + change["length"] :]
    return content


# Lines, whatever they are.


def draw_lines(choose: random.Random, content: bytes) -> Change:
    count = content.count(b"\n") + 1
    kind = choose.choice(["drop", "double", "swap", "put", "put", "join", "windows", "mark", "cut", "many"])
    change: Change = {"kind": kind, "line": choose.randrange(count)}
    if kind == "swap":
        change["with"] = choose.randrange(count)
    elif kind in ("put", "many"):
        change["raw"] = draw_value(choose)
    return change


def apply_lines(content: bytes, change: Change) -> bytes:
    lines = content.split(b"\n")
    at, kind = min(change["line"], len(lines) - 1), change["kind"]
    if kind == "drop":
        del lines[at]
    elif kind == "double":
        lines.insert(at, lines[at])
    elif kind == "swap":
        other = min(change["with"], len(lines) - 1)
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "put":
        lines.insert(at, encoded(change["raw"]))
    elif kind == "many":
        lines[at:at] = [encoded(change["raw"])[:200]] * 3000
    elif kind == "join" and at + 1 < len(lines):
        lines[at : at + 2] = [lines[at] + lines[at + 1]]
    elif kind == "windows":
        return b"\r\n".join(lines)
    elif kind == "mark":
        return b"\xef\xbb\xbf" + content
    elif kind == "cut":
        lines[at:] = [lines[at][: len(lines[at]) // 2]]
    return b"\n".join(lines)


# Lines of JSON: a change inside one line, or of the lines.


def draw_json_lines(choose: random.Random, content: bytes) -> Change:
    lines = content.split(b"\n")
    if choose.random() < 0.25 or not content.strip():
        return {"lines": draw_lines(choose, content)}
    at = choose.choice([number for number, line in enumerate(lines) if line.strip()])
    return {"line": at, "inside": trees.draw_json(choose, lines[at])}


def apply_json_lines(content: bytes, changes: Sequence[Change]) -> bytes:
    lines = content.split(b"\n")
    inside: dict[int, list[Change]] = {}
    for change in changes:
        if "inside" in change and change["line"] < len(lines):
            inside.setdefault(change["line"], []).append(change["inside"])
    for at, wanted in inside.items():
        lines[at] = trees.apply_json(lines[at], wanted)
    content = b"\n".join(lines)
    for change in changes:
        if "lines" in change:
            content = apply_lines(content, change["lines"])
    return content


# An .idx file, by the names of its fields; see `harness/channels/index_file.py` for the layout.

_IDX_HEADER = {
    "magic": (0, "<9s"),
    "version": (9, "<Q"),
    "code": (17, "<B"),
    "sequences": (18, "<Q"),
    "borders": (26, "<Q"),
}
_BOUNDS = (0, 1, 2, 3, 5, 8, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def _idx_arrays(content: bytes) -> dict[str, tuple[int, str, int]]:
    """Offset, format and length of each array of an undamaged index."""
    sequences, borders = struct.unpack_from("<QQ", content, 18)
    lengths = 34 + 4 * sequences
    return {
        "lengths": (34, "<i", sequences),
        "offsets": (lengths, "<q", sequences),
        "document_borders": (lengths + 8 * sequences, "<q", borders),
    }


def draw_idx(choose: random.Random, content: bytes) -> Change:
    if choose.random() < 0.4:
        field = choose.choice(sorted(set(_IDX_HEADER) - {"magic"}))
        offset, kind = _IDX_HEADER[field]
        return {"field": field, "value": _near(choose, struct.unpack_from(kind, content, offset)[0])}
    array = choose.choice(["lengths", "offsets", "document_borders"])
    offset, kind, length = _idx_arrays(content)[array]
    at = choose.choice([0, length - 1, choose.randrange(length)])
    now = struct.unpack_from(kind, content, offset + at * struct.calcsize(kind))[0]
    return {"array": array, "at": at, "value": _near(choose, now)}


def _near(choose: random.Random, now: int) -> int:
    return choose.choice([now + 1, now - 1, now * 2, -now, now + 2**31, choose.choice(_BOUNDS), choose.choice(_BOUNDS)])


def apply_idx(content: bytes, change: Change) -> bytes:
    if len(content) < 34:
        return content
    if "field" in change:
        offset, kind = _IDX_HEADER[change["field"]]
    else:
        start, kind, _ = _idx_arrays(content).get(change["array"], (0, "<i", 0))
        offset = start + change["at"] * struct.calcsize(kind)
    return put_number(content, offset, struct.calcsize(kind), change["value"])


def put_number(content: bytes, offset: int, size: int, value: int) -> bytes:
    if offset + size > len(content):
        return content
    return content[:offset] + (value % 256**size).to_bytes(size, "little") + content[offset + size :]


# safetensors: a length of eight bytes, a header in JSON, the bytes of the tensors.


def _safetensors_parts(content: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def draw_safetensors(choose: random.Random, content: bytes) -> Change:
    header, _ = _safetensors_parts(content)
    if choose.random() < 0.15:
        return {"length": _near(choose, len(header))}
    if choose.random() < 0.1:
        return {"body": draw_bytes(choose, bytes(4096))}
    return {"header": trees.draw_json(choose, header)}


def apply_safetensors(content: bytes, changes: Sequence[Change]) -> bytes:
    header, body = _safetensors_parts(content)
    header = trees.apply_json(header, [change["header"] for change in changes if "header" in change])
    for change in changes:
        if "body" in change:
            body = apply_bytes(body, change["body"])
    content = len(header).to_bytes(8, "little") + header + body
    for change in changes:
        if "length" in change:
            content = put_number(content, 0, 8, change["length"])
    return content


# A pickle: its instructions, one of them with another argument, left out, doubled, or from elsewhere.

_PICKLE_BITS = (
    *(b"cposix\nsystem\n".hex(), b"cbuiltins\neval\n".hex()),
    *(b"ctorch\nload\n".hex(), b"(S'touch pwned'\ntR".hex(), b"I9999999999999999999999\n".hex(), b"F1e999\n".hex()),
    *(b"\x8a\xff".hex(), b"\x8b\xff\xff\xff\x7f".hex(), b"B\xff\xff\xff\x7f".hex(), b"X\xff\xff\xff\x7f".hex()),
    *(
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f".hex(),
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f".hex(),
        b"j\xff\xff\xff\xff".hex(),
    ),
    *((b"(" * 5000).hex(), (b"]" * 3000).hex(), b"N.".hex(), b"}".hex(), b"K\x00".hex(), b"J\xff\xff\xff\xff".hex()),
    *(
        b"2".hex(),
        b"0".hex(),
        b"b".hex(),
        b"R".hex(),
        b"\x81".hex(),
        b"\x85".hex(),
        b"Q".hex(),
        b"P1\n".hex(),
        b"\x95".hex(),
    ),
    *(b"r\xff\xff\xff\x7f".hex(), b"X\x04\x00\x00\x00\x1b[2J".hex(), b"G\x7f\xf8\x00\x00\x00\x00\x00\x00".hex()),
)


def _instructions(content: bytes) -> list[bytes]:
    starts = [at for _, _, at in pickletools.genops(content)]
    return [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]


def draw_pickle(choose: random.Random, content: bytes) -> Change:
    count = len(_instructions(content))
    kind = choose.choice(["drop", "double", "swap", "put", "put", "argument", "argument", "argument"])
    change: Change = {"kind": kind, "at": choose.randrange(count)}
    if kind == "swap":
        change["with"] = choose.randrange(count)
    elif kind == "put":
        change["hex"] = choose.choice(_PICKLE_BITS)
    elif kind == "argument":
        change |= {
            "at": choose.randrange(count),
            "byte": choose.choice([1, 1, 2, 3, 5]),
            "value": choose.randrange(256),
        }
    return change


def apply_pickle(content: bytes, changes: Sequence[Change]) -> bytes:
    parts = _instructions(content)
    for change in changes:
        at, kind = min(change["at"], len(parts) - 1), change["kind"]
        if kind == "drop":
            parts[at] = b""
        elif kind == "double":
            parts[at] *= 2
        elif kind == "swap":
            other = min(change["with"], len(parts) - 1)
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == "put":
            parts[at] = bytes.fromhex(change["hex"]) + parts[at]
        elif len(parts[at]) > change["byte"]:
            parts[at] = parts[at][: change["byte"]] + bytes([change["value"]]) + parts[at][change["byte"] + 1 :]
    return b"".join(parts)


# What is packed: a change of what is inside, packed again.


def packed(inner: Format, pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]) -> Format:
    return Format(
        lambda choose, content: inner.draw(choose, unpack(content)),
        lambda content, changes: pack(inner.apply(unpack(content), changes)),
    )


def draw_csv(choose: random.Random, content: bytes) -> Change:
    if choose.random() < 0.4:
        return {"lines": draw_lines(choose, content)}
    line = choose.randrange(max(content.count(b"\n"), 1))
    return {"line": line, "cell": choose.randrange(4), "raw": draw_value(choose)}


def apply_csv(content: bytes, change: Change) -> bytes:
    if "lines" in change:
        return apply_lines(content, change["lines"])
    lines = content.split(b"\n")
    cells = lines[change["line"] % len(lines)].split(b",")
    cells[change["cell"] % len(cells)] = encoded(change["raw"])
    lines[change["line"] % len(lines)] = b",".join(cells)
    return b"\n".join(lines)


def draw_text(choose: random.Random, content: bytes) -> Change:
    """Another whole content: commands and other small files."""
    return (
        {"content": draw_value(choose)}
        if choose.random() < 0.7 or not content
        else {"bytes": draw_bytes(choose, content)}
    )


def apply_text(content: bytes, change: Change) -> bytes:
    return encoded(change["content"]) if "content" in change else apply_bytes(content, change["bytes"])


def _zstd(content: bytes, *, packs: bool) -> bytes:
    import zstandard

    return zstandard.compress(content) if packs else zstandard.ZstdDecompressor().stream_reader(content).read()


UNPACKABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, struct.error)
"""What comes of unpacking something that was damaged before."""
JSON_LINES = Format(draw_json_lines, apply_json_lines)
FORMATS: dict[str, Format] = {
    "bytes": Format(draw_bytes, one_by_one(apply_bytes)),
    "text": Format(draw_text, one_by_one(apply_text)),
    "lines": Format(draw_lines, one_by_one(apply_lines)),
    "json": Format(trees.draw_json, trees.apply_json),
    "manifest": Format(seals.draw_manifest, seals.apply_manifest),
    "yaml": Format(trees.draw_yaml, trees.apply_yaml),
    "jsonl": JSON_LINES,
    "csv": Format(draw_csv, one_by_one(apply_csv)),
    "csv.gz": packed(Format(draw_csv, one_by_one(apply_csv)), gzip.compress, gzip.decompress),
    "idx": Format(draw_idx, one_by_one(apply_idx)),
    "provenance": Format(draw_origins, one_by_one(apply_origins)),
    "safetensors": Format(draw_safetensors, apply_safetensors),
    "pickle": Format(draw_pickle, apply_pickle),
    "protobuf": Format(wire.draw_message, one_by_one(wire.apply_message)),
    "records": Format(wire.draw_records, one_by_one(wire.apply_records)),
    "jsonl.gz": packed(JSON_LINES, gzip.compress, gzip.decompress),
    "jsonl.bz2": packed(JSON_LINES, bz2.compress, bz2.decompress),
    "jsonl.xz": packed(JSON_LINES, lzma.compress, lzma.decompress),
    "jsonl.zst": packed(JSON_LINES, lambda c: _zstd(c, packs=True), lambda c: _zstd(c, packs=False)),
}
"""By name; the name is what a finding says."""
