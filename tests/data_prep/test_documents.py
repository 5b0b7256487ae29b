from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

import pytest

from data_prep.text.input_files import find_inputs
from data_prep.text.read_documents import CARRIAGE_RETURNS, Rejection, parse_line, read_records
from data_prep.text.sample_documents import sample_documents
from harness.errors import DataError, UsageError


def lines_of(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "empty line"),
        (b"  \t", "empty line"),
        (b'{"text": "a', "not JSON (Unterminated string starting at: line 1 column 10 (char 9))"),
        (b'{"text": "a"} {"text": "b"}', "not JSON (Extra data: line 1 column 15 (char 14))"),
        (b"[" * 100_000, "not JSON (nested too deeply)"),
        (b'["a"]', "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b'{"body": "a"}', "no key 'text'"),
        (b'{"text": null}', "'text' is not text"),
        (b'{"text": 7}', "'text' is not text"),
        (b'{"text": ""}', "empty text"),
        (b'{"text": " \\n\\n "}', "empty text"),
        (b'{"text": "a\xff"}', "not UTF-8 (byte 0xff at position 11)"),
        ("Grüße".encode("latin-1"), "not UTF-8 (byte 0xfc at position 2)"),
        (b'{"text": "a \\ud800"}', "not valid Unicode (lone surrogate at position 2)"),
        (rb'{"te\u0078t": "a1", "text": "b2"}', "key 'text' occurs twice in an object"),
        (rb'{"text": "b2", "\u0074ext" : "a1"}', "key 'text' occurs twice in an object"),
        (rb'{"te\u0078t": "a1", "t\u0065xt": "b2"}', "key 'text' occurs twice in an object"),
        (b'{"text": "a"}\r{"text": "b"}\r', CARRIAGE_RETURNS.reason),
        (b'{"text": "a"}\r\r{"text": "b', CARRIAGE_RETURNS.reason),
        (b'{"text": "a\r b"}', "not JSON (Invalid control character at: line 1 column 12 (char 11))"),
    ],
)
def test_lines_that_are_no_documents(line: bytes, reason: str) -> None:
    assert parse_line(line, "text") == Rejection(reason)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": " kept as it is \\n"}', " kept as it is \n"),
        (b'{"id": 1, "text": "\\ud83e\\udd9c"}', "🦜"),
        ('{"text": "春眠不觉晓"}'.encode(), "春眠不觉晓"),
        (rb'{"\u0074ext": "a key may be spelt so"}', "a key may be spelt so"),
        (rb'{"text": "say \"text\": \u0078", "a\"text": "another key"}', 'say "text": x'),
        (b'{"text": "one line, from another system"}\r', "one line, from another system"),
    ],
)
def test_lines_that_are_documents(line: bytes, text: str) -> None:
    assert parse_line(line, "text") == text


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_records_have_file_line_and_content(tmp_path: Path, name: str) -> None:
    content = lines_of("one") + b"\n" + lines_of("two")[:-1]
    file = tmp_path / name
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    records = list(read_records(file, "text"))
    assert [(r.file, r.line, r.content) for r in records] == [
        (file, 1, "one"),
        (file, 2, Rejection("empty line")),
        (file, 3, "two"),
    ]
    assert records[-1].file_bytes_read == file.stat().st_size


@pytest.mark.parametrize(
    ("line", "key", "twice"),
    [
        (b'{"meta": {"text": "a"}, "meta": {"text": "b"}}', "meta.text", "meta"),
        (b'{"meta": {"text": "a", "text": "b"}}', "meta.text", "text"),
        (rb'{"a\"b": "a", "a\"b": "b"}', 'a"b', 'a"b'),
        (rb'{"a/b": "a", "a\/b": "b"}', "a/b", "a/b"),
    ],
)
def test_a_key_that_occurs_twice_at_any_level(line: bytes, key: str, twice: str) -> None:
    assert parse_line(line, key) == Rejection(f"key {twice!r} occurs twice in an object")


def test_a_long_line_of_carriage_returns_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines_of("one", "two" * 500).replace(b"\n", b"\r"))
    contents = [r.content for r in read_records(tmp_path / "a.jsonl", "text", max_line_bytes=1000)]
    assert contents == [CARRIAGE_RETURNS]


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines_of("one"))
    assert [r.content for r in read_records(tmp_path / "a.jsonl", "text")] == ["one"]


def test_huge_line_is_rejected_and_the_next_is_read(tmp_path: Path) -> None:
    limit = 1000
    longest = lines_of("x" * (limit - len(lines_of("")) + 1))
    assert len(longest) == limit + 1  # the newline does not count
    (tmp_path / "a.jsonl").write_bytes(lines_of("y" * 10_000) + longest + lines_of("after"))
    contents = [r.content for r in read_records(tmp_path / "a.jsonl", "text", max_line_bytes=limit)]
    assert contents == [Rejection("longer than 1000 bytes"), json.loads(longest)["text"], "after"]


def test_huge_last_line_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"x" * 5000)
    contents = [r.content for r in read_records(tmp_path / "a.jsonl", "text", max_line_bytes=1000)]
    assert contents == [Rejection("longer than 1000 bytes")]


def test_a_line_without_an_end_is_refused_wherever_one_looks(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines_of("one"))
    os.truncate(tmp_path / "a.jsonl", 1 << 42)
    (file,) = find_inputs([str(tmp_path / "a.jsonl")])
    for read in (lambda: [*read_records(file, "text")], lambda: sample_documents([file], "text", 1000)):
        with pytest.raises(DataError, match=r"a\.jsonl: .*line .* has no end for 1\.0 GiB"):
            read()


@pytest.mark.parametrize("damage", ["cut short", "altered", "not gzip"])
def test_damaged_gzip_is_an_error(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress(lines_of(*(str(number) * 50 for number in range(5000))))
    if damage == "cut short":
        packed = packed[: len(packed) // 2]
    elif damage == "altered":
        packed = packed[:-8] + b"\x00" * 8
    else:
        packed = lines_of("one")
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(packed)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read beyond line \d+ .*damaged or cut short: fetch"):
        list(read_records(file, "text"))


def test_zstandard_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a\.jsonl\.zst: reading it needs the Python package zstandard.*with gzip"):
        list(read_records(tmp_path / "a.jsonl.zst", "text"))


def test_zstandard_with_several_frames(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    texts = [str(number) * 50 for number in range(5000)]
    frames = zstandard.compress(lines_of(*texts[:3000])), zstandard.compress(lines_of(*texts[3000:]))
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(b"".join(frames))
    assert [r.content for r in read_records(file, "text")] == texts


@pytest.mark.parametrize("kept_bytes", [3, 5000, -1])
def test_damaged_zstandard_is_an_error(tmp_path: Path, kept_bytes: int) -> None:
    zstandard = pytest.importorskip("zstandard")
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(zstandard.compress(lines_of(*(str(number) * 50 for number in range(5000))))[:kept_bytes])
    with pytest.raises(DataError, match=r"cannot be read beyond line \d+ \(its last piece has no end\)"):
        list(read_records(file, "text"))
    file.write_bytes(b"not zstandard at all")
    with pytest.raises(DataError, match=r"cannot be read beyond line 0 .*damaged or cut short"):
        list(read_records(file, "text"))


def test_inputs_are_files_folders_and_patterns_in_order(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/1.jsonl.gz", "b/deep/3.jsonl", "b/readme.txt", "c-1.jsonl", "c-0.jsonl", "a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    found = find_inputs([str(tmp_path / "b"), str(tmp_path / "c-*"), str(tmp_path / "a.jsonl")])
    names = [str(file.relative_to(tmp_path)) for file in found]
    assert names == ["b/1.jsonl.gz", "b/2.jsonl", "b/deep/3.jsonl", "c-0.jsonl", "c-1.jsonl", "a.jsonl"]


@pytest.mark.parametrize("argument", ["no.jsonl", "*.jsonl", "."])
def test_nothing_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no input at .*: no such file, or no \.jsonl, .* Check the path"):
        find_inputs([argument])


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match=r"a\.txt: the name must end in one of \.jsonl, \.jsonl\.gz, \.jsonl\.zst"):
        find_inputs([str(tmp_path / "a.txt")])


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UsageError, match=r"a\.jsonl is named twice: its documents would be doubled"):
        find_inputs([str(tmp_path), str(tmp_path / "a.jsonl")])


@pytest.mark.parametrize(
    ("encoding", "text", "reason"),
    [
        ("latin-1", "café", "not UTF-8 (byte 0xe9 at position 13)"),
        ("gb18030", "春眠不觉晓", "not UTF-8 (byte 0xb4 at position 10)"),
        ("shift-jis", "日本語", "not UTF-8 (byte 0x93 at position 10)"),
        ("utf-16", "plain", "not UTF-8 (byte 0xff at position 0)"),
    ],
)
def test_lines_in_other_encodings_are_rejected_and_the_next_is_read(
    tmp_path: Path, encoding: str, text: str, reason: str
) -> None:
    line = json.dumps({"text": text}, ensure_ascii=False).encode(encoding) + b"\n"
    (tmp_path / "a.jsonl").write_bytes(line + lines_of("after"))
    contents = [record.content for record in read_records(tmp_path / "a.jsonl", "text")]
    assert contents == [Rejection(reason), "after"]
