"""Pickles are read without calling anything, in time and memory that follow from their size."""

from __future__ import annotations

import os
import pickle
import random
import resource
import time
from collections import OrderedDict
from typing import Any

import pytest

from harness.plain_pickle import Name, NameRefusedError, PickleError, Record, read_pickle

NAMES = {("collections", "OrderedDict"), ("posix", "mkdir")}


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1,
        255,
        65_536,
        -(2**31),
        2**63,
        2**127,
        0.1,
        "",
        "ä" * 300,
        (),
        (1, (2, "x"), (3, 4, 5), (6, 7, 8, 9)),
        [],
        [[1]] * 3,
        list(range(3000)),
        {"a": {"b": [1, 2.5, None]}, 3: False, (0, 1): "t"},
        {str(number): number for number in range(2500)},
        OrderedDict(a=1),
    ],
)
def test_values_are_read_as_python_reads_them(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol), NAMES) == value


class Runs:
    """Would make a folder if it were unpickled as usual."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


def test_a_call_becomes_a_record(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_pickle(pickle.dumps(Runs()), NAMES)
    assert isinstance(found, Record)
    assert (found.kind, found.arguments) == (Name("posix", "mkdir"), ("harmed",))
    with pytest.raises(NameRefusedError, match=r"names posix\.mkdir, which does not belong there"):
        read_pickle(pickle.dumps(Runs()))
    assert list(tmp_path.iterdir()) == []


def doubled(times: int, last: bytes) -> bytes:
    """A pair of pairs of pairs … of the same value, and then some instructions."""
    return b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(times)) + last


BOMBS = {
    "bytes that are not there": b"\x80\x04\x8e" + (2**30).to_bytes(8, "little"),
    "text that is not there": b"\x80\x04\x8d" + (2**30).to_bytes(8, "little"),
    "short text that is not there": b"\x80\x02X" + (2**31).to_bytes(4, "little"),
    "a frame that is not there": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"N.",
    "a number of 2 GB": b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little"),
    "a number of 255 bytes": b"\x80\x02\x8a\xff" + bytes(255) + b".",
    "a number as text": b"\x80\x02I" + b"9" * 100_000 + b"\n.",
    "a place in the memo": b"\x80\x02Nr" + (2**32 - 1).to_bytes(4, "little") + b"00",
    "a key of pairs of pairs": doubled(200, b"}" + b"h%c" % 200 + b"Ns."),
    "a text of pairs of pairs": doubled(200, b"0cbuiltins\nstr\nh%c\x85R." % 200),
    "a set": b"\x80\x04\x8f(K\x01\x90.",
    "a copy": b"\x80\x02N2\x86.",
    "an end without a begin": b"\x80\x02t.",
    "below the begin": b"\x80\x02K\x01(\x85.",
    "nothing": b"\x80\x02.",
    "two values": b"\x80\x02NN.",
    "something behind": b"\x80\x02N.N",
    "an old protocol": b"(lp0\n.",
    "an unknown protocol": b"\x80\x09N.",
    "an unknown value": b"\x80\x02h\x05.",
    "a persistent value": b"\x80\x02NQ.",
    "half a name": b"\x80\x02cposix\nmkdir",
    "text that is none": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "a state of a list": b"\x80\x02]Nb.",
    "an item of a tuple": b"\x80\x02)Na.",
    "a key without a value": b"\x80\x02}(Nu.",
    "one million lists": b"\x80\x02" + b"]" * (2**20 + 1) + b".",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once(content: bytes) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(PickleError):
        read_pickle(content, NAMES)
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_deep_nesting_is_no_recursion() -> None:
    found = read_pickle(b"\x80\x02" + b"]" + b"".join([b"]"] * 100_000) + b"a" * 100_000 + b".")
    assert isinstance(found, list)


def test_damaged_pickles_raise_one_kind_of_error() -> None:
    whole = pickle.dumps({"a": [(1, 2.5, None), "text"], "b": {"c": OrderedDict(x=-1)}}, 4)
    chosen = random.Random(1)
    for _ in range(3000):
        content = bytearray(whole)
        for _ in range(chosen.randint(1, 4)):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
        try:
            read_pickle(bytes(content[: chosen.randint(1, len(content))]), NAMES)
        except PickleError as error:
            assert "\n" not in str(error)
