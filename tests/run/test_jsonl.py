from __future__ import annotations

import errno
from pathlib import Path

import pytest

from harness.run.append import MAX_WAITING_LINES, AppendFile, JsonLines, open_unbuffered


class Disk:
    """A disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def open_file(self, path: Path) -> AppendFile:
        return LimitedFile(self, path)


class LimitedFile:
    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._file = open_unbuffered(path)

    def write(self, data: bytes, /) -> int | None:
        if not self._disk.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = data[: self._disk.room]
        self._disk.room -= len(taken)
        return self._file.write(taken)

    def close(self) -> None:
        self._file.close()


def test_a_line_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "a.jsonl")
    lines.append('{"a": 1}\n')
    assert (tmp_path / "a.jsonl").read_bytes() == b'{"a": 1}\n'
    lines.close()


def test_a_half_last_line_gets_its_end_before_the_first_line_of_a_new_launch(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    lines = JsonLines(path)
    lines.append('{"a": 3}\n')
    lines.close()
    assert path.read_bytes() == b'{"a": 1}\n{"a": \n{"a": 3}\n'


def test_whole_last_lines_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n")
    lines = JsonLines(path)
    lines.append("2\n")
    lines.close()
    assert path.read_bytes() == b"1\n2\n"


def test_lines_that_found_no_room_are_written_in_order_once_there_is_some(tmp_path: Path) -> None:
    disk = Disk(room=6)
    lines = JsonLines(tmp_path / "a.jsonl", disk.open_file)
    lines.append('"1"\n')
    for line in ('"2"\n', '"3"\n'):  # the first finds room for 2 bytes of it, the second for none
        with pytest.raises(OSError, match="No space left"):
            lines.append(line)
    assert lines.num_waiting == 2
    disk.room = 100
    lines.append('"4"\n')
    lines.close()
    assert lines.num_waiting == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b'"1"\n"2\n"2"\n"3"\n"4"\n'


def test_lines_wait_while_the_file_cannot_be_opened(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "gone" / "a.jsonl")
    with pytest.raises(FileNotFoundError):
        lines.append("1\n")
    (tmp_path / "gone").mkdir()
    lines.append("2\n")
    lines.close()
    assert lines.path.read_text() == "1\n2\n"


def test_the_number_of_waiting_lines_is_bounded(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "a.jsonl", Disk(room=0).open_file)
    for number in range(MAX_WAITING_LINES + 5):
        with pytest.raises(OSError, match="No space left"):
            lines.append(f"{number}\n")
    assert lines.num_waiting == MAX_WAITING_LINES
    lines.close()
