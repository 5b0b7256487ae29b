"""A file that is given up on a full disk: the reason for it is the error that is raised, and nothing of it stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import small_disk

from harness.run.files import replacing

IN_THE_BUFFER = b"x" * 4000
"""Little enough to be written when the file is closed."""


def fill(folder: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (folder / "other").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_the_reason_for_giving_up_is_what_is_raised(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 32):
        with pytest.raises(ValueError, match="the reason"), replacing(tmp_path / "disk" / "new") as file:
            file.write(IN_THE_BUFFER)
            fill(tmp_path / "disk")
            raise ValueError("the reason")
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["other"]


def test_a_generator_that_is_left_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)

    def lines(folder: Path) -> Iterator[None]:
        with replacing(folder / "new") as file:
            file.write(IN_THE_BUFFER)
            yield

    with small_disk(tmp_path / "disk", 32):
        generator = lines(tmp_path / "disk")
        next(generator)
        fill(tmp_path / "disk")
        del generator
        gc.collect()
        assert unraisable == []
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["other"]
