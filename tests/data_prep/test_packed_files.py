"""Packed files are read to their end, or refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.text.input_files import find_inputs
from data_prep.text.read_documents import read_records
from harness.errors import DataError

TEXTS = ["one", "春眠不觉晓", "three"]
LINES = b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in TEXTS)


def zstd(content: bytes) -> bytes:
    packed: bytes = pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(content)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstd,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def texts_of(file: Path) -> list[object]:
    return [record.content for record in read_records(file, "text")]


@pytest.mark.parametrize("packing", list(PACKERS))
def test_a_later_piece_that_is_damaged_anywhere_is_refused(tmp_path: Path, packing: str) -> None:
    piece = PACKERS[packing](LINES)
    file = tmp_path / f"a.jsonl.{packing}"
    for place in (0, 1, len(piece) // 2):
        altered = piece[:place] + bytes([piece[place] ^ 0xFF]) + piece[place + 1 :]
        for content in (piece + altered, piece + altered + piece):
            file.write_bytes(content)
            with pytest.raises(DataError, match=r"cannot be read beyond line \d+ .*damaged or cut short"):
                texts_of(file)


@pytest.mark.parametrize("garbage", [b"x", b"<html>not found</html>", LINES, b"\0\0\0\0x"])
@pytest.mark.parametrize("packing", list(PACKERS))
def test_something_else_behind_the_last_piece_is_refused(tmp_path: Path, packing: str, garbage: bytes) -> None:
    file = tmp_path / f"a.jsonl.{packing}"
    file.write_bytes(PACKERS[packing](LINES) + garbage)
    with pytest.raises(DataError, match=r"cannot be read beyond line \d+ .*damaged or cut short"):
        texts_of(file)


@pytest.mark.parametrize("padding", [4, 8, 40_000])
@pytest.mark.parametrize("packing", ["gz", "xz"])
def test_zero_bytes_between_and_behind_pieces_are_legal(tmp_path: Path, packing: str, padding: int) -> None:
    piece = PACKERS[packing](LINES) + bytes(padding)
    file = tmp_path / f"a.jsonl.{packing}"
    file.write_bytes(piece * 3)
    assert texts_of(file) == TEXTS * 3


@pytest.mark.parametrize("packing", ["gz", "xz"])
def test_zero_bytes_without_an_end_are_refused(tmp_path: Path, packing: str) -> None:
    file = tmp_path / f"a.jsonl.{packing}"
    file.write_bytes(PACKERS[packing](LINES))
    os.truncate(file, 1 << 42)
    with pytest.raises(DataError, match="its last piece is followed by more than 64 MiB of zeros"):
        texts_of(file)


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
def test_much_text_in_few_packed_bytes_is_read_whole(tmp_path: Path, packing: str) -> None:
    texts = ["x" * 3_000_000, *map(str, range(2000)), "y" * 3_000_000]
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    (tmp_path / f"a.jsonl.{packing}").write_bytes(PACKERS[packing](lines) * 2)
    assert texts_of(tmp_path / f"a.jsonl.{packing}") == texts * 2


@pytest.mark.parametrize("packing", list(PACKERS))
def test_a_packed_file_of_no_bytes_is_a_broken_download(tmp_path: Path, packing: str) -> None:
    (tmp_path / f"a.jsonl.{packing}").touch()
    (tmp_path / "b.jsonl").write_bytes(LINES)
    for read in (lambda: texts_of(tmp_path / f"a.jsonl.{packing}"), lambda: find_inputs([str(tmp_path)])):
        with pytest.raises(DataError, match=r"a\.jsonl\.\w+: cannot be read beyond line 0 \(it has 0 bytes.*damaged"):
            read()
    (tmp_path / f"a.jsonl.{packing}").write_bytes(PACKERS[packing](b""))
    assert texts_of(tmp_path / f"a.jsonl.{packing}") == []


@pytest.mark.parametrize("packing", list(PACKERS))
@pytest.mark.parametrize("name", ["b.jsonl", "b.json", "b.ndjson.bz2", "b.jsonl.gz"])
def test_content_that_is_packed_otherwise_than_its_name_says_is_refused_by_name(
    tmp_path: Path, name: str, packing: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES * 500)
    file = tmp_path / name
    file.write_bytes(PACKERS[packing](LINES))
    if name.endswith(packing):
        assert texts_of(file) == TEXTS
        return
    named = {"b.ndjson.bz2": "bz2", "b.jsonl.gz": "gz"}.get(name, "not packed")
    expected = rf"{name}: its content is {packing}, though by its name it is {named}\. Give it a name that ends in"
    for argument in (file, tmp_path, tmp_path / "*"):
        with pytest.raises(DataError, match=expected):
            find_inputs([str(argument)])
    with pytest.raises(DataError, match=expected):
        texts_of(file)


def test_archives_are_refused_and_text_that_begins_like_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match="its content is zip, though by its name it is not packed. Unpack it"):
        find_inputs([str(tmp_path)])
    (tmp_path / "a.jsonl").write_bytes(b"BZh is a broken line\n" + LINES)
    assert texts_of(tmp_path / "a.jsonl")[1:] == TEXTS
