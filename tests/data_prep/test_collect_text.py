from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

import pytest

from data_prep.demo.collect_text import is_classical, read_fortunes, read_r_strings, split_chapters, write_documents


def test_fortunes_lose_colours_indentation_and_empty_entries(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("\x1b[32m《静夜思》\x1b[m\n\n    床前明月光 \n%\n%\n二\n    --\x1b[32m《论语》\x1b[m\n")
    assert list(read_fortunes(tmp_path / "f")) == ["《静夜思》\n\n床前明月光", "二\n--《论语》"]


@pytest.mark.parametrize(
    ("text", "classical"),
    [
        ("《詩經‧ 國風》\n\n關關雎鳩", True),
        ("学而时习之\n--《论语》", True),
        ("学而时习之\n--《论语》序说", False),
        ("但愿人长久\n-- 苏轼《水调歌头》", True),
        ("一句话\n-- 苏轼", True),
        ("一句话\n-- 鲁迅", False),
        ("一句话\n--《谚语》", False),
        ("如何使用 reportbug", False),
        ("《沁园春・长沙》\n毛泽东 一九二五年", False),
    ],
)
def test_only_listed_works_and_authors_are_taken(text: str, classical: bool) -> None:
    assert is_classical(text) is classical


def test_chapters_are_unwrapped() -> None:
    lines = [
        "TITLE",
        "",
        "Chapter 1",
        "",
        "It is a truth",
        "universally",
        "",
        "",
        "acknowledged",
        "",
        "CHAPTER XII",
        "",
        "End",
    ]
    assert list(split_chapters(lines)) == [
        "Chapter 1\n\nIt is a truth universally\n\nacknowledged",
        "CHAPTER XII\n\nEnd",
    ]


def test_r_character_vectors_are_read() -> None:
    def record(*strings: str) -> bytes:
        packed = b"".join(struct.pack(">ii", 0x00040009, len(s.encode())) + s.encode() for s in strings)
        plain = b"X\n" + struct.pack(">iiii", 3, 0, 0, 5) + b"UTF-8" + struct.pack(">ii", 16, len(strings)) + packed
        return struct.pack(">I", len(plain)) + zlib.compress(plain)

    assert list(read_r_strings(record("a", "é") + record("b"))) == [["a", "é"], ["b"]]


def test_written_documents_depend_on_the_text_alone(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        write_documents(tmp_path / name, ["春", "two"])
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    lines = gzip.decompress((tmp_path / "a.gz").read_bytes()).splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "春"}, {"text": "two"}]
