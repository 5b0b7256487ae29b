"""A file that cannot be closed with less on disk than it was given."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from harness.checkpoint.counted import CountedFile, Opener, Records
from harness.run.checkpoints.contents import file_records


def test_what_is_written_is_there(tmp_path: Path) -> None:
    with Opener()(tmp_path / "file", "wb") as file:
        file.write(b"a" * 10)
        file.write(memoryview(b"b" * 100_000))
        assert file.tell() == 100_010
        os.fsync(file.fileno())
    file.close()
    assert (tmp_path / "file").read_bytes() == b"a" * 10 + b"b" * 100_000


def test_what_the_disk_lost_is_noticed(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="100,010 bytes were written and 100,000 are there") as caught,
        CountedFile(  # noqa: PT012
            tmp_path / "file"
        ) as file,
    ):
        file.write(b"a" * 10)
        file.flush()
        os.ftruncate(file.fileno(), 0)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        file.write(b"b" * 100_000)
    assert caught.value.errno == errno.EIO
    assert file.closed


def test_a_full_disk_is_what_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="No space left on device"), CountedFile("/dev/full") as file:
        file.write(b"a" * 10)
    assert file.closed


@pytest.mark.parametrize("with_sha256", [False, True])
def test_what_is_written_is_hashed_meanwhile(with_sha256: bool, tmp_path: Path) -> None:
    opened = Opener()
    opened.with_sha256 = with_sha256
    for name, pieces in {"a": [b"x" * 10, bytes(range(256)) * 1000], "b": []}.items():
        with opened(tmp_path / name, "wb") as file:
            for piece in pieces:
                file.write(piece)
    assert opened.take() == file_records(tmp_path, ["a", "b"], with_sha256=with_sha256)
    assert opened.take() == {}


def test_a_file_that_the_disk_lost_has_no_record(tmp_path: Path) -> None:
    records: Records = {}
    file = CountedFile(tmp_path / "file", records=records)
    file.write(b"a" * 10)
    file.flush()
    os.ftruncate(file.fileno(), 0)
    with pytest.raises(OSError, match="10 bytes were written and 0 are there"):
        file.close()
    assert records == {}
