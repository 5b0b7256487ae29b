"""New parts of channels: found, checked, and reported once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest
from counted import instructions_of
from data_parts import VOCAB_SIZE, part_line, random_documents, write_channel, write_part

from harness.channels.channels import Channel, SeenLines, further_parts, open_channel
from harness.channels.parts import Part
from harness.config.schema import ChannelConfig
from harness.data.arrivals import Arrivals, NewParts
from harness.errors import DataError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def channel(tmp_path: Path) -> Channel:
    return write_channel(tmp_path / "zh", [random_documents(9)])


def watching(channel: Channel, clock: Callable[[], float] = time.monotonic, every_s: float = 0.0) -> Arrivals:
    folder = channel.parts[0].prefix.parent
    return Arrivals({"zh": channel}, {"zh": folder}, vocab_size=VOCAB_SIZE, every_s=every_s, clock=clock)


def add_part(channel: Channel, number: int, **changes: object) -> Part:
    folder = channel.parts[0].prefix.parent
    part = write_part(folder / f"part-{number:05}", random_documents(9, seed=number))
    line = json.loads(part_line(part)) | changes
    with (folder / "parts.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return part


def with_others(channel: Channel, number: int) -> Channel:
    """The channel with further parts in its list, which are known and never looked at."""
    folder = channel.parts[0].prefix.parent
    names = [f"other-{other}" for other in range(number)]
    others = [replace(channel.parts[0], name=name, prefix=folder / name) for name in names]
    large = replace(channel, parts=(*channel.parts, *others))
    (folder / "parts.jsonl").write_text("".join(map(part_line, large.parts)))
    return large


def found_by(arrivals: Arrivals) -> NewParts:
    """What one look finds; no other is under way afterwards."""
    for _ in range(3):
        arrivals.has_found()
        if arrivals._looking is not None:
            wait([arrivals._looking])
    return arrivals.take()


def test_new_part_is_found_once(channel: Channel) -> None:
    arrivals = watching(channel)
    assert found_by(arrivals) == NewParts()
    part = add_part(channel, 1)
    assert found_by(arrivals).parts == {"zh": (part,)}
    assert found_by(arrivals) == NewParts()
    more = tuple(add_part(channel, number) for number in (2, 3))
    assert found_by(arrivals).parts == {"zh": more}
    arrivals.close()


def test_it_looks_only_every_so_many_seconds(channel: Channel) -> None:
    clock = Clock()
    arrivals = watching(channel, clock, every_s=5)
    assert found_by(arrivals) == NewParts()
    add_part(channel, 1)
    clock.now = 4.9
    assert found_by(arrivals) == NewParts()
    clock.now = 5.0
    assert found_by(arrivals).parts
    arrivals.close()


def test_part_whose_hash_is_wrong_is_refused_until_it_is_right(channel: Channel) -> None:
    arrivals = watching(channel)
    part = add_part(channel, 1)
    content = part.bin_path.read_bytes()
    part.bin_path.write_bytes(bytes(reversed(content)))
    (problem,) = found_by(arrivals).problems
    assert "part-00001.bin has the hash" in problem
    assert f"its line in parts.jsonl says {part.xxh3}. Copy or make the part again." in problem
    assert found_by(arrivals) == NewParts()  # reported once
    part.bin_path.write_bytes(content)
    assert found_by(arrivals).parts == {"zh": (part,)}
    arrivals.close()


def test_part_whose_file_is_missing_or_too_narrow(channel: Channel) -> None:
    arrivals = watching(channel)
    part = add_part(channel, 1)
    part.bin_path.unlink()
    assert "part-00001.bin: No such file" in found_by(arrivals).problems[0]
    narrow = Arrivals(
        {"zh": channel}, {"zh": channel.parts[0].prefix.parent}, vocab_size=2**17, every_s=0.0, clock=Clock()
    )
    write_part(part.prefix, random_documents(9, seed=1))
    assert "channel zh: " in (problem := found_by(narrow).problems[0])
    assert "too few for the 131072 ids of the vocabulary" in problem
    for each in (arrivals, narrow):
        each.close()


def test_list_that_changed_is_refused(channel: Channel) -> None:
    arrivals = watching(channel)
    found_by(arrivals)
    folder = channel.parts[0].prefix.parent
    line = json.loads((folder / "parts.jsonl").read_text())
    (folder / "parts.jsonl").write_text(json.dumps(line | {"xxh3": "0" * 16}) + "\n")
    (problem,) = found_by(arrivals).problems
    assert "line 1 of" in problem
    assert "and is now part-00000 with" in problem
    assert "Lines may only be appended to the list: restore it." in problem
    (folder / "parts.jsonl").unlink()
    assert "cannot read" in found_by(arrivals).problems[0]
    arrivals.close()


def test_shorter_list_is_refused(channel: Channel) -> None:
    longer = Channel(name="zh", parts=(*channel.parts, add_part(channel, 1)))
    arrivals = watching(longer)
    found_by(arrivals)
    folder = channel.parts[0].prefix.parent
    (folder / "parts.jsonl").write_text(part_line(channel.parts[0]))
    (problem,) = found_by(arrivals).problems
    assert "has 1 finished parts and had 2. Lines may only be appended to the list: restore it." in problem
    arrivals.close()


def test_parts_that_were_put_back_are_found_again(channel: Channel) -> None:
    arrivals = watching(channel)
    part = add_part(channel, 1)
    found = found_by(arrivals)
    arrivals.put_back(found.parts)
    assert found_by(arrivals).parts == {"zh": (part,)}
    arrivals.close()


def test_parts_of_a_large_channel_are_gathered(channel: Channel) -> None:
    """Until they are a thousandth of it, have waited for ten minutes, or training waits for them."""
    large = with_others(channel, 2999)
    clock = Clock()
    arrivals = watching(large, clock)

    def has_found() -> bool:
        arrivals.has_found()
        assert arrivals._looking is not None
        wait([arrivals._looking])
        return arrivals.has_found()

    first = add_part(channel, 3000)
    assert not has_found()
    assert arrivals.has_found(is_wanted=True)
    clock.now = 599.0
    assert not has_found()
    clock.now = 600.0
    assert has_found()
    assert arrivals.take().parts == {"zh": (first,)}

    some = [add_part(channel, 3001), add_part(channel, 3002)]
    assert not has_found()
    some += [add_part(channel, 3003), add_part(channel, 3004)]  # of 3,001
    assert has_found()
    assert arrivals.take().parts == {"zh": tuple(some)}
    arrivals.close()


def test_of_a_list_that_grew_only_new_lines_are_read(channel: Channel) -> None:
    folder = channel.parts[0].prefix.parent
    large = with_others(channel, 400)
    seen = SeenLines()
    assert further_parts(large, folder, seen) == ()
    first = add_part(channel, 401)
    whole = instructions_of(lambda: further_parts(large, folder))
    assert 10 * instructions_of(lambda: further_parts(large, folder, seen)) < whole
    larger = replace(large, parts=(*large.parts, first))
    assert further_parts(larger, folder, seen) == ()
    assert further_parts(large, folder, seen) == (first,)  # it was put back
    assert further_parts(larger, folder, seen) == ()

    lines = (folder / "parts.jsonl").read_text().splitlines(keepends=True)
    (folder / "parts.jsonl").write_text("".join((*lines, lines[7])))
    with pytest.raises(DataError, match=r"parts.jsonl:403 \(byte [0-9]+\): part other-6 is listed twice"):
        further_parts(larger, folder, seen)
    changed = lines[3].replace('"tokens": ', '"tokens": 1')
    (folder / "parts.jsonl").write_text("".join((*lines[:3], changed, *lines[4:])))
    with pytest.raises(DataError, match="line 4 of .* was other-2 with"):
        further_parts(larger, folder, seen)
    (folder / "parts.jsonl").write_text("".join(lines[:300]))
    with pytest.raises(DataError, match="has 300 finished parts and had 402"):
        further_parts(larger, folder, seen)


def test_a_new_part_whose_file_is_missing_is_not_passed_over_later(channel: Channel) -> None:
    folder = channel.parts[0].prefix.parent
    seen = SeenLines()
    first = add_part(channel, 1)
    assert further_parts(channel, folder, seen) == (first,)
    moved = first.bin_path.rename(folder / "moved")
    for _ in range(2):  # put back, and not there
        with pytest.raises(DataError, match="No such file"):
            further_parts(channel, folder, seen)
    moved.rename(first.bin_path)
    assert further_parts(channel, folder, seen) == (first,)


def test_channel_without_a_list_gets_no_parts(channel: Channel) -> None:
    prefix = channel.parts[0].prefix
    bare = open_channel("zh", ChannelConfig(path=prefix))
    arrivals = Arrivals({"zh": bare}, {"zh": prefix}, vocab_size=VOCAB_SIZE, every_s=0.0, clock=Clock())
    assert found_by(arrivals) == NewParts()
    arrivals.close()


def test_only_the_used_parts_are_opened(channel: Channel) -> None:
    folder = channel.parts[0].prefix.parent
    add_part(channel, 1).bin_path.unlink()
    assert open_channel("zh", ChannelConfig(path=folder), 1) == channel
    with pytest.raises(DataError, match="cannot find"):
        open_channel("zh", ChannelConfig(path=folder))
    with pytest.raises(DataError, match="has 2 finished parts, and the run has used 3. Put the missing ones back"):
        write_part(folder / "part-00001", random_documents(9, seed=1))
        open_channel("zh", ChannelConfig(path=folder), 3)


def test_part_whose_index_merges_documents_is_refused(channel: Channel) -> None:
    arrivals = watching(channel)
    part = add_part(channel, 1)
    whole = part.idx_path.read_bytes()
    merged = bytearray(whole)
    merged[-16] ^= 1  # the last border but one
    part.idx_path.write_bytes(merged)
    (problem,) = found_by(arrivals).problems
    assert "part-00001.idx is damaged" in problem
    part.idx_path.write_bytes(whole)
    found = found_by(arrivals)
    assert found.parts == {"zh": (part,)}
    assert found.checked["zh", part.name].bin.xxh3 == part.xxh3  # it is not read again when its turn comes
    arrivals.close()
