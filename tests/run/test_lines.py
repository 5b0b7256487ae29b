"""Lines of files that may be anything, in bounded memory."""

from __future__ import annotations

import gc
import io
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from harness.run import follow, lines
from harness.run.follow import Mark, new_lines
from harness.run.lines import MOST_LINE_BYTES, last_lines, lines_backwards, lines_in, lines_of

LONG = b"x" * (3 * MOST_LINE_BYTES)


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    num_bytes = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.num_bytes += len(line)
        return line


def test_a_line_that_is_too_long_is_empty_and_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\n" + LONG + b"\ntwo\n\n" + LONG)
    assert list(lines_in(path)) == [b"one\n", b"", b"two\n", b"\n", b""]
    assert [line for line in lines_backwards(path) if line] == [b"two", b"one"]
    assert list(lines_in(tmp_path / "missing")) == list(lines_backwards(tmp_path / "missing")) == []


@pytest.mark.parametrize("length", [MOST_LINE_BYTES - 1, MOST_LINE_BYTES, MOST_LINE_BYTES + 1])
def test_a_line_at_the_limit(length: int) -> None:
    line = b"x" * (length - 1) + b"\n"
    read = list(lines_of(io.BytesIO(line + b"next\n")))
    assert read == [line if length <= MOST_LINE_BYTES else b"", b"next\n"]


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_lines_from_the_end_are_those_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(lines, "_BLOCK_BYTES", block)
    path = tmp_path / "a.jsonl"
    for content in (b"", b"\n", b"one", b"one\n", b"\n\none\n\ntwo and more", b"one\ntwo\nthree\n"):
        path.write_bytes(content)
        assert list(lines_backwards(path)) == content.split(b"\n")[::-1] if content else [b""]


def test_a_file_without_line_ends_takes_no_more_memory_than_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(40 * MOST_LINE_BYTES)
    tracemalloc.start()
    try:
        assert list(lines_in(path)) == [b""]
        assert list(lines_backwards(path)) == [b""]
        assert list(new_lines(path, Mark())) == []
        assert last_lines(path, 1000) == [b""]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * MOST_LINE_BYTES


def test_who_follows_a_file_reads_a_line_that_is_too_long_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mark = tmp_path / "a.jsonl", Mark()
    read: list[Counted] = []

    def opened(path: Path) -> Counted:
        read.append(Counted(path.read_bytes()))
        monkeypatch.setattr(read[-1], "fileno", lambda: descriptor)
        return read[-1]

    path.write_bytes(b"one\n" + LONG)
    descriptor = os.open(path, os.O_RDONLY)
    monkeypatch.setattr("harness.run.follow.open_lines", opened)
    assert list(new_lines(path, mark)) == [b"one"]
    with path.open("ab") as file:
        file.write(b"x" * 10)
    assert list(new_lines(path, mark)) == []
    assert [each.num_bytes for each in read] == [len(LONG) + 4, 10]
    with path.open("ab") as file:
        file.write(b"its end\ntwo\nhal")
    assert list(new_lines(path, mark)) == [b"two"]
    assert (mark.offset, mark.is_in_long_line) == (path.stat().st_size - 3, False)
    os.close(descriptor)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "zeros"):
        with pytest.raises(OSError, match="not a regular file|Is a directory"):
            list(lines_in(tmp_path / name))
        with pytest.raises(OSError, match="not a regular file|Is a directory"):
            list(new_lines(tmp_path / name, Mark()))
        assert last_lines(tmp_path / name, 100) == []
    with pytest.raises(OSError, match="null"):
        list(lines_in(tmp_path / "a\0b"))


@pytest.mark.parametrize("read", [lines_in, lines_backwards])
def test_terabytes_without_a_line_end_are_no_lines(read: Callable[[Path], Iterator[bytes]], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"{}\n")
    os.truncate(path, 1 << 42)
    with pytest.raises(OSError, match="no line ends within 1 GiB"):
        list(read(path))
    assert last_lines(path, 1 << 20) == []


def test_a_follower_does_other_things_between_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MOST_PASSED_OVER", 16 * 1024**2)
    path, mark = tmp_path / "a.jsonl", Mark()
    path.write_bytes(b"one\n")
    os.truncate(path, 1 << 42)
    assert list(new_lines(path, mark)) == [b"one"]
    first = mark.offset
    assert 0 < first < 32 * 1024**2
    assert list(new_lines(path, mark)) == []
    assert mark.offset > first, "the next look goes on"


def test_a_disk_that_fails_at_the_close_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error there would be a traceback from nowhere, where a reader is left before its end."""
    path = tmp_path / "lines"
    path.write_text("first\nlast\n")
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    for read, first in ((lines_in, b"first\n"), (lines_backwards, b"")):
        lines = read(path)
        assert next(lines) == first
        os.close(cast(Any, lines).gi_frame.f_locals["file"].fileno())
        del lines
        gc.collect()
    assert told == []
