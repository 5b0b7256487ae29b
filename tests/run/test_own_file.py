from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.run.own_file import RefusedFileError, read_own_file


def to_link(path: Path) -> None:
    path.with_name("target").write_text("secret")
    path.symlink_to(path.with_name("target"))


def to_pipe(path: Path) -> None:
    os.mkfifo(path)


def to_link_of_a_file(path: Path) -> None:
    path.with_name("target").write_text("secret")
    path.hardlink_to(path.with_name("target"))


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    content, status = read_own_file(path, max_bytes=3)
    assert (content, status.st_mtime_ns) == (b"abc", path.stat().st_mtime_ns)


def test_a_file_that_is_gone_is_not_a_refused_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_own_file(tmp_path / "a", max_bytes=3)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("exchange", "text"),
    [
        (to_link, "cannot be read: Too many levels of symbolic links"),
        (to_pipe, "a named pipe, not a regular file"),
        (to_link_of_a_file, "a second name of another file"),
    ],
)
def test_a_file_exchanged_after_it_was_examined_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: Callable[[Path], None], text: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    real_open = os.open

    def exchange_then_open(opened: Path, flags: int) -> int:
        path.unlink()
        exchange(path)
        return real_open(opened, flags)

    with monkeypatch.context() as attacked:
        attacked.setattr(os, "open", exchange_then_open)
        with pytest.raises(RefusedFileError, match=text):
            read_own_file(path, max_bytes=100)
