from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from data_parts import part_line, random_documents, write_channel, write_part

from harness.channels.channels import Channel, open_channel
from harness.config.schema import ChannelConfig
from harness.errors import EXIT_BAD_DATA, DataError


def opened(path: Path) -> Channel:
    return open_channel("zh", ChannelConfig(path=path))


def test_folder_lists_its_parts_in_order(tmp_path: Path) -> None:
    made = write_channel(tmp_path / "zh", [random_documents(5, seed) for seed in range(3)])
    assert opened(tmp_path / "zh") == made


def test_part_is_not_there_until_its_line_is_whole(tmp_path: Path) -> None:
    made = write_channel(tmp_path / "zh", [random_documents(5, seed) for seed in range(2)])
    lines = (tmp_path / "zh" / "parts.jsonl").read_bytes()
    first_end = lines.index(b"\n") + 1
    for end in range(first_end, len(lines)):
        (tmp_path / "zh" / "parts.jsonl").write_bytes(lines[:end])
        assert opened(tmp_path / "zh").parts == made.parts[:1]


def test_bare_prefix_has_its_numbers_from_the_header(tmp_path: Path) -> None:
    made = write_part(tmp_path / "old_text_document", random_documents(7), dtype=np.int32)
    (tmp_path / "old_text_document").mkdir()  # Megatron keeps caches in a folder of that name
    (part,) = opened(tmp_path / "old_text_document").parts
    assert (part.name, part.num_tokens, part.num_documents) == ("old_text_document", made.num_tokens, 7)
    assert part.bin_bytes == 4 * made.num_tokens
    assert part.xxh3 is None


def test_validation_path_is_opened_in_the_same_way(tmp_path: Path) -> None:
    write_part(tmp_path / "train", random_documents(5))
    held_out = write_channel(tmp_path / "valid", [random_documents(3)])
    channel = open_channel("zh", ChannelConfig(path=tmp_path / "train", validation_path=tmp_path / "valid"))
    assert channel.validation_parts == held_out.parts


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "channel zh: there is nothing at .*nothing. Give a folder with parts.jsonl, or the prefix of"),
        ("folder", "channel zh: there is no parts.jsonl in .*folder. A channel folder lists its finished parts there"),
        ("empty", "channel zh: .*parts.jsonl lists no finished part. Wait for the first part, or make one."),
        ("half", r"channel zh: .*parts.jsonl lists no finished part \(its one line has no newline yet\)"),
    ],
)
def test_nothing_to_open(tmp_path: Path, path: str, message: str) -> None:
    for folder in ("folder", "empty", "half"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty" / "parts.jsonl").write_text("")
    (tmp_path / "half" / "parts.jsonl").write_text('{"prefix": "part-0')
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path / path)
    assert caught.value.exit_code == EXIT_BAD_DATA


GOOD = {"prefix": "part-00001", "tokens": 2, "documents": 1, "bin_bytes": 4, "xxh3": "0123456789abcdef"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "not a line of parts.jsonl: Expecting value"),
        (b'{"prefix": "part-0', "not a line of parts.jsonl: Unterminated string"),
        (b'{"prefix": "\xff"}', "not a line of parts.jsonl: not UTF-8 at byte 12"),
        (b"[1]", r"not a JSON object: b'\[1\]'"),
        (b"[" * 60000, "not a line of parts.jsonl: "),
        (b'{"tokens": ' + b"9" * 5000 + b"}", "not a line of parts.jsonl: "),
        (b" " * 70000, "the line has 70000 bytes; a part's line has at most 65536"),
        (b'{"prefix": "a", "prefix": "b"}', "not a line of parts.jsonl: prefix is there twice"),
        (json.dumps({**GOOD, "colour": 1}).encode(), "the keys are .*`colour`; expected `prefix`, `tokens`,"),
        (json.dumps({"prefix": "part-00001"}).encode(), "the keys are `prefix`; expected"),
        (json.dumps({**GOOD, "prefix": "../part"}).encode(), r"prefix is '\.\./part'; expected the name of a part"),
        (json.dumps({**GOOD, "prefix": 7}).encode(), "prefix is 7; expected the name of a part"),
        (json.dumps({**GOOD, "tokens": "2"}).encode(), "tokens is '2'; expected a whole number, 0 or more"),
        (json.dumps({**GOOD, "tokens": True}).encode(), "tokens is True; expected a whole number"),
        (json.dumps({**GOOD, "documents": -1}).encode(), "documents is -1; expected a whole number"),
        (json.dumps({**GOOD, "bin_bytes": 4.0}).encode(), "bin_bytes is 4.0; expected a whole number"),
        (json.dumps({**GOOD, "xxh3": None}).encode(), "xxh3 is None; expected 16 hexadecimal digits as text"),
    ],
)
def test_bad_line_is_named_with_line_and_byte(tmp_path: Path, line: bytes, message: str) -> None:
    part = write_part(tmp_path / "part-00000", random_documents(3))
    first = part_line(part).encode()
    (tmp_path / "parts.jsonl").write_bytes(first + line + b"\n")
    with pytest.raises(DataError, match=rf"parts.jsonl:2 \(byte {len(first)}\): {message}"):
        opened(tmp_path)


def test_part_listed_twice(tmp_path: Path) -> None:
    line = part_line(write_part(tmp_path / "part-00000", random_documents(3)))
    (tmp_path / "parts.jsonl").write_text(line + line)
    with pytest.raises(DataError, match=r"parts.jsonl:2 \(byte \d+\): part part-00000 is listed twice"):
        opened(tmp_path)


@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_missing_file_of_a_listed_part(tmp_path: Path, ending: str) -> None:
    part = write_channel(tmp_path, [random_documents(3)]).parts[0]
    Path(f"{part.prefix}{ending}").unlink()
    with pytest.raises(DataError, match=f"cannot find .*part-00000{ending}: No such file or directory"):
        opened(tmp_path)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    part = write_channel(tmp_path, [random_documents(3)]).parts[0]
    part.bin_path.unlink()
    part.bin_path.mkdir()
    with pytest.raises(DataError, match="part-00000.bin is not a regular file"):
        opened(tmp_path)


def test_truncated_bin_of_a_listed_part(tmp_path: Path) -> None:
    part = write_channel(tmp_path, [random_documents(3)]).parts[0]
    part.bin_path.write_bytes(part.bin_path.read_bytes()[:-2])
    expected = f"part-00000.bin is truncated or altered: expected {part.bin_bytes} bytes, found {part.bin_bytes - 2}"
    with pytest.raises(DataError, match=re.escape(expected)):
        opened(tmp_path)


def test_truncated_bin_of_a_bare_prefix(tmp_path: Path) -> None:
    part = write_part(tmp_path / "old", random_documents(3))
    part.bin_path.write_bytes(part.bin_path.read_bytes()[:-1])
    with pytest.raises(DataError, match="old.bin is truncated: .* bytes are not a whole number of uint16 tokens"):
        opened(part.prefix)


def test_bare_prefix_without_a_document_border(tmp_path: Path) -> None:
    (tmp_path / "old.idx").write_bytes(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 0, 0))
    with pytest.raises(DataError, match="old.idx is damaged: its header says 0 document borders"):
        opened(tmp_path / "old")
