"""Readers of a few lines each, which share no code with the product: what was accepted is compared with them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 28
_TOKENS = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 8: "H"}


def content_of(path: Path) -> bytes:
    """The content of a file that is one, and not of terabytes.

    Raises:
        OSError, ValueError: It is something else.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
        raise ValueError(f"{path.name} is no file to be read")
    return path.read_bytes()


def documents_of_part(prefix: Path) -> list[list[int]]:
    """The documents of a `.bin/.idx` pair, each as its tokens, as Megatron-LM reads them."""
    index = content_of(prefix.with_name(prefix.name + ".idx"))
    content = content_of(prefix.with_name(prefix.name + ".bin"))
    magic, version, code, num_sequences, num_borders = struct.unpack_from("<9sQBQQ", index)
    if magic != b"MMIDIDX\x00\x00" or version != 1 or code not in _TOKENS:
        raise ValueError("no index")
    if len(index) != 34 + 12 * num_sequences + 8 * num_borders:
        raise ValueError("an index of another size")
    lengths = struct.unpack_from(f"<{num_sequences}i", index, 34)
    offsets = struct.unpack_from(f"<{num_sequences}q", index, 34 + 4 * num_sequences)
    borders = struct.unpack_from(f"<{num_borders}q", index, 34 + 12 * num_sequences)
    sequences = [
        list(struct.unpack_from(f"<{length}{_TOKENS[code]}", content, offset))
        for length, offset in zip(lengths, offsets, strict=True)
    ]
    return [sum(sequences[a:b], []) for a, b in zip(borders, borders[1:], strict=False)]


def parts_of_channel(folder: Path) -> list[Path]:
    """The prefixes of a channel's finished parts; behind the last line end is a line that a process was killed in."""
    found = []
    for line in content_of(folder / "parts.jsonl").split(b"\n")[:-1]:
        try:
            found.append(folder / json.loads(line)["prefix"])
        except (ValueError, TypeError, KeyError):
            continue
    return found


def lines_of(path: Path) -> list[bytes]:
    """The lines of a packed or plain file, whole.

    Raises:
        OSError, EOFError, ValueError: It is damaged.
    """
    content = content_of(path)
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".bz2":
        content = bz2.decompress(content)
    elif path.suffix == ".xz":
        content = lzma.decompress(content)
    elif path.suffix == ".zst":
        import zstandard

        content = _whole_zstd(content, zstandard)
    return [line for line in content.split(b"\n") if line.strip()]


def _whole_zstd(content: bytes, zstandard: Any) -> bytes:
    parts = []
    while content:
        reader = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(reader.decompress(content))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        if not reader.eof:
            raise EOFError("a frame that does not end")
        content = reader.unused_data
    return b"".join(parts)


def texts_of(path: Path) -> list[str]:
    """The documents of a file of text: those of its lines that are objects with one text, of more than white space."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        texts = pyarrow.parquet.read_table(path, columns=["text"])["text"].to_pylist()
        return [text for text in texts if text and text.strip()]
    if path.suffix == ".json" and content_of(path).lstrip()[:1] == b"[":
        records = json.loads(content_of(path))
    else:
        records = [record for line in lines_of(path) if (record := _object(line)) is not None]
    texts = [record.get("text") for record in records if isinstance(record, dict)]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line, object_pairs_hook=_with_one_text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _with_one_text(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; a line with two texts does not say which of them is the document."""
    if sum(name == "text" for name, _ in pairs) > 1:
        raise ValueError("two texts")
    return dict(pairs)


def tensors_of(folder: Path) -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
    """Name, number format, shape and bytes of every tensor of a Hugging Face model's folder."""
    for path in sorted(folder.glob("*.safetensors")):
        content = content_of(path)
        length = int.from_bytes(content[:8], "little")
        header: Mapping[str, Any] = json.loads(content[8 : 8 + length])
        for name, fields in header.items():
            if name != "__metadata__":
                begin, end = fields["data_offsets"]
                data = content[8 + length + begin : 8 + length + end]
                yield name, fields["dtype"], tuple(fields["shape"]), data
