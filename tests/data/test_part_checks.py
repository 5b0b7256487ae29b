"""Every part is read by one rank, once, in little memory; later launches read only what has changed."""

from __future__ import annotations

import errno
import os
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from data_parts import VOCAB_SIZE, IndexedDatasetBuilder, random_documents, write_channel

from harness.channels.channels import bare_part, open_channel
from harness.channels.regular_file import open_to_read
from harness.config.schema import ChannelConfig
from harness.data import part_checks
from harness.data.files import checked
from harness.data.files.checked import CheckStoppedError, UsedPart, check_part
from harness.data.part_checks import PartChecks, owner_of
from harness.errors import DataError
from harness.run.checked_parts import CheckedPart, CheckedParts, append_checked, read_checked

NUM_PARTS = 12
LONG_AGO_S = 60.0


@pytest.fixture
def parts(tmp_path: Path) -> tuple[UsedPart, ...]:
    channel = write_channel(tmp_path / "zh", [random_documents(5, seed) for seed in range(NUM_PARTS)])
    return tuple(UsedPart("zh", part) for part in channel.parts)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def findings(
    parts: Sequence[UsedPart], *, rank: int = 0, num_ranks: int = 1, earlier: CheckedParts | None = None
) -> tuple[CheckedParts, int]:
    """What a rank finds of parts, and how many it reads."""
    checks = PartChecks(VOCAB_SIZE, rank=rank, num_ranks=num_ranks, earlier=earlier or {})
    checks.want(parts)
    found = told(checks, parts, lambda found: len(found) == sum(owner_of(p, num_ranks) == rank for p in parts))
    checks.close()
    assert not any(isinstance(finding, DataError) for finding in found.values())
    return {key: finding for key, finding in found.items() if isinstance(finding, CheckedPart)}, checks.num_read


def told(
    checks: PartChecks,
    parts: Sequence[UsedPart],
    is_enough: Callable[[dict[tuple[str, str], CheckedPart | DataError]], bool],
) -> dict[tuple[str, str], CheckedPart | DataError]:
    deadline = time.monotonic() + 60
    while not is_enough(found := checks.tell([part.key for part in parts])):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def flip(path: Path, place: int = 10) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_every_part_is_read_by_one_rank(parts: tuple[UsedPart, ...]) -> None:
    by_rank = [findings(parts, rank=rank, num_ranks=3) for rank in range(3)]
    assert sum(num_read for _, num_read in by_rank) == NUM_PARTS
    assert [len(found) for found, _ in by_rank] == [num_read for _, num_read in by_rank]
    assert {key for found, _ in by_rank for key in found} == {part.key for part in parts}
    assert all(num_read for _, num_read in by_rank)


def test_a_later_launch_reads_only_what_has_changed(parts: tuple[UsedPart, ...], tmp_path: Path) -> None:
    found, _ = findings(parts)
    assert findings(parts, earlier=found) == (found, 0)
    os.utime(parts[3].part.bin_path)  # touched: read again, and found to be the same
    again, num_read = findings(parts, earlier=found)
    assert num_read == 1 and again[parts[3].key].bin.xxh3 == found[parts[3].key].bin.xxh3
    flip(parts[5].part.bin_path)
    before = found[parts[5].key].bin.state
    os.utime(parts[5].part.bin_path, ns=(before.modified_ns, before.modified_ns))  # the time of a change is not its own
    with pytest.raises(AssertionError):
        findings(parts, earlier=found)


def test_a_part_is_looked_at_again_when_it_is_wanted_again(parts: tuple[UsedPart, ...]) -> None:
    clock = Clock()
    checks = PartChecks(VOCAB_SIZE, rank=0, num_ranks=1, earlier={}, clock=clock)
    checks.want(parts[:1])
    told(checks, parts, lambda found: len(found) == 1)
    checks.want(parts[1:2])
    told(checks, parts, lambda found: len(found) == 2)
    whole = parts[0].part.bin_path.read_bytes()
    flip(parts[0].part.bin_path)
    checks.want(parts[:2])
    told(checks, parts, lambda found: isinstance(found[parts[0].key], DataError))
    assert checks.num_read == 3
    parts[0].part.bin_path.write_bytes(whole)  # put back, it is sound again
    checks.want(())
    checks.want(parts[:2])
    told(checks, parts, lambda found: isinstance(found[parts[0].key], CheckedPart))
    assert checks.num_read == 4
    checks.close()


def test_news_are_told_once(parts: tuple[UsedPart, ...]) -> None:
    checks = PartChecks(VOCAB_SIZE, rank=0, num_ranks=1, earlier={})
    assert not checks.has_news()
    checks.want(parts)
    told(checks, parts, lambda found: len(found) == NUM_PARTS)
    checks.tell([part.key for part in parts])
    assert not checks.has_news()
    checks.close()


def test_every_flipped_bit_of_a_listed_part_is_found(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(4, longest=5)])
    used = UsedPart("zh", channel.parts[0])
    check_part(used, VOCAB_SIZE)
    for path in (used.part.bin_path, used.part.idx_path):
        content = path.read_bytes()
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(flipped)
            with pytest.raises(DataError, match="channel zh: "):
                check_part(used, VOCAB_SIZE)
        path.write_bytes(content)


def test_a_pair_without_a_list_is_compared_with_what_it_was(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "pair.bin"), dtype=np.uint16)
    builder.add_document(np.arange(5), [2, 3])
    builder.add_document(np.arange(0), [])
    builder.add_document(np.arange(5, 9), [4])
    builder.finalize(str(tmp_path / "pair.idx"))
    used = UsedPart("zh", bare_part(tmp_path / "pair"))
    before = check_part(used, VOCAB_SIZE)
    assert check_part(used, VOCAB_SIZE, before=before) == before
    index = (tmp_path / "pair.idx").read_bytes()
    merged = bytearray(index)
    merged[-24] ^= 2  # the first document is empty now, and the second has its sequences
    (tmp_path / "pair.idx").write_bytes(merged)
    check_part(used, VOCAB_SIZE)
    with pytest.raises(DataError, match=r"pair.idx has the hash .*when this run first read it"):
        check_part(used, VOCAB_SIZE, before=before)
    (tmp_path / "pair.idx").write_bytes(index)
    flip(tmp_path / "pair.bin")
    with pytest.raises(DataError, match=r"pair.bin has the hash .*when this run first read it"):
        check_part(used, VOCAB_SIZE, before=before)


def test_a_large_part_needs_little_memory_and_can_be_given_up(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [[np.zeros(1 << 26, dtype=np.uint16)]])  # 128 MiB
    used = UsedPart("zh", channel.parts[0])
    tracemalloc.start()
    check_part(used, VOCAB_SIZE)
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
    with pytest.raises(CheckStoppedError):
        check_part(used, VOCAB_SIZE, is_stopped=lambda: True)


def test_a_file_that_is_no_file_is_refused_at_once(parts: tuple[UsedPart, ...]) -> None:
    for number, end in enumerate(("bin_path", "idx_path")):
        path = getattr(parts[number].part, end)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DataError, match="not a regular file"):
            check_part(parts[number], VOCAB_SIZE)
    link = parts[2].part.bin_path
    link.unlink()
    link.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="not a regular file"):
        check_part(parts[2], VOCAB_SIZE)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(DataError, match="cannot find"):
        check_part(parts[2], VOCAB_SIZE)


@pytest.mark.parametrize(
    ("error", "num_failures", "is_sound", "num_tries"),
    [
        (errno.EIO, 3, True, 4),
        (errno.ESTALE, 4, True, 5),
        (errno.ESTALE, 99, False, 5),
        (errno.EACCES, 99, False, 1),
    ],
)
def test_a_disk_that_fails_for_a_moment_is_no_damage(
    parts: tuple[UsedPart, ...],
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    num_failures: int,
    is_sound: bool,
    num_tries: int,
) -> None:
    opened = 0

    def open_or_fail(path: Path) -> BinaryIO:
        nonlocal opened
        if path.suffix == ".bin":
            opened += 1
            if opened <= num_failures:
                raise OSError(error, os.strerror(error), str(path))
        return open_to_read(path)

    monkeypatch.setattr(checked, "open_to_read", open_or_fail)
    monkeypatch.setattr(part_checks, "_AGAIN_AFTER_S", (0.01,) * 4)
    checks = PartChecks(VOCAB_SIZE, rank=0, num_ranks=1, earlier={})
    checks.want(parts[:1])
    (finding,) = told(checks, parts, lambda found: len(found) == 1).values()
    checks.close()
    assert isinstance(finding, CheckedPart) is is_sound
    assert opened == num_tries
    if isinstance(finding, DataError):
        assert f"cannot read {parts[0].part.bin_path}: {os.strerror(error)}" in str(finding)


def test_what_is_written_down_is_read_again(
    parts: tuple[UsedPart, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = findings(parts)
    path = tmp_path / "checked_parts.jsonl"
    append_checked(path, found.values())
    fresh = read_checked(path)  # the files are a moment old: their times say nothing
    assert fresh.keys() == found.keys()
    assert findings(parts, earlier=fresh)[1] == NUM_PARTS
    later = time.time_ns() + int(LONG_AGO_S * 1e9)
    monkeypatch.setattr(time, "time_ns", lambda: later)
    append_checked(path, found.values())
    assert read_checked(path) == found


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"\xff", b'{"channel": "zh"}', b"null", b"[" * 100_000, b'{"channel": 1, "part": true}'],
)
def test_damage_to_what_is_written_down_costs_only_time(
    parts: tuple[UsedPart, ...], tmp_path: Path, line: bytes
) -> None:
    found, _ = findings(parts[:1])
    path = tmp_path / "checked_parts.jsonl"
    path.write_bytes(line + b"\n")
    append_checked(path, found.values())
    assert read_checked(path).keys() == found.keys()


def test_what_is_written_down_may_be_anything(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert [read_checked(tmp_path / name) for name in ("pipe", "folder", "none")] == [{}, {}, {}]


def test_a_listed_part_follows_its_line(tmp_path: Path) -> None:
    """The line is what counts: a part that was made anew, with its line, is no other than it should be."""
    folder = tmp_path / "zh"
    before = check_part(UsedPart("zh", write_channel(folder, [random_documents(5, 1)]).parts[0]), VOCAB_SIZE)
    write_channel(folder, [random_documents(5, 2)])
    (part,) = open_channel("zh", ChannelConfig(path=folder)).parts
    assert check_part(UsedPart("zh", part), VOCAB_SIZE, before=before).bin.xxh3 == part.xxh3
