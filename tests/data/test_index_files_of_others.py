"""Index files that other programs wrote: what is right is read, and of what is wrong the first fault is named.

Everything is refused before Megatron reads the index, which would only assert.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.channels.channels import bare_part, open_channel
from harness.channels.parts import Part, header_problems
from harness.config.schema import ChannelConfig
from harness.data.files.document_table import DocumentSpan
from harness.data.files.mcore import MappedPart
from harness.data.files.opened import open_part
from harness.errors import DataError

NUM_SEQUENCES = 20
LENGTH = 5
IDS = np.arange(NUM_SEQUENCES * LENGTH) % 50


def write_index(
    prefix: Path,
    *,
    borders: Sequence[int] = range(NUM_SEQUENCES + 1),
    lengths: Sequence[int] = (LENGTH,) * NUM_SEQUENCES,
    code: int = 4,
    dtype: str = "<i4",
    version: int = 1,
    tail: bytes = b"",
    ids: np.ndarray = IDS,
) -> Path:
    ids.astype(dtype).tofile(f"{prefix}.bin")
    width = np.dtype(dtype).itemsize
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * width
    Path(f"{prefix}.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", version, code, len(lengths), len(borders))
        + np.array(lengths, "<i4").tobytes()
        + begins.astype("<i8").tobytes()
        + np.array(borders, "<i8").tobytes()
        + tail
    )
    return prefix


def problem_of(prefix: Path) -> str:
    """The text by which training, and a look at the data, refuse a part; it is the same."""
    texts = set()
    for look in (lambda part: MappedPart(part, 50), open_part):
        with pytest.raises(DataError) as caught:
            look(bare_part(prefix))
        texts.add(str(caught.value))
    (text,) = texts
    return text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"borders": range(NUM_SEQUENCES)},
            "other.idx is damaged: its document borders do not rise from 0 to its 20 sequences: the first is 0, the "
            "last is 19; the last border, which is the number of sequences, is missing. Make the part again.",
        ),
        ({"borders": (0, 7)}, "the first is 0, the last is 7; the last border"),
        ({"borders": (0, 21)}, "do not rise from 0 to its 20 sequences: the first is 0, the last is 21. Make"),
        ({"borders": (1, 20)}, "do not rise from 0 to its 20 sequences: the first is 1, the last is 20. Make"),
        ({"borders": (0, 9, 4, 20)}, "do not rise from 0 to its 20 sequences: 4 follows 9. Make"),
        ({"borders": (0, -3, 20)}, "do not rise from 0 to its 20 sequences: -3 follows 0. Make"),
        ({"borders": ()}, "its header says 0 document borders"),
        ({"lengths": (5,) * 18 + (-5, 15)}, "sequence 18 has length -5"),
        ({"lengths": (5,) * 18 + (15, -5)}, "sequence 19 has length -5"),
        ({"lengths": (5,) * 19 + (6,)}, "the sequences in other.idx make 404 bytes, the file has 400"),
        ({"lengths": (5,) * 19 + (4,)}, "the sequences in other.idx make 396 bytes, the file has 400"),
        ({"code": 8}, "make 390 bytes, the file has 400"),
        ({"tail": bytes(NUM_SEQUENCES)}, "other.idx has modes: behind its document borders there is one more byte"),
        ({"tail": bytes(NUM_SEQUENCES - 1)}, "other.idx is truncated or altered"),
        ({"version": 2}, "version 2; expected"),
        ({"code": 6, "dtype": "<f8"}, "token type code 6; allowed are"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    assert text in problem_of(write_index(tmp_path / "other", **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "num_documents"),
    [
        ({}, NUM_SEQUENCES),
        ({"borders": (0, 3, 11, 20)}, 3),
        ({"borders": (0, 20)}, 1),
        ({"borders": (0, 3, 3, 20)}, 3),
        ({"code": 5, "dtype": "<i8"}, NUM_SEQUENCES),
        ({"code": 8, "dtype": "<u2"}, NUM_SEQUENCES),
        ({"code": 1, "dtype": "<u1"}, NUM_SEQUENCES),
    ],
)
def test_what_is_right_is_read(tmp_path: Path, changes: dict[str, object], num_documents: int) -> None:
    part = bare_part(write_index(tmp_path / "other", **changes))  # type: ignore[arg-type]
    assert (part.num_documents, part.num_tokens) == (num_documents, len(IDS))
    mapped = MappedPart(part, 50)
    lengths = mapped.lengths_of(np.arange(num_documents))
    out = np.empty(len(IDS), dtype=np.int64)
    mapped.read([DocumentSpan(number, 0, int(length)) for number, length in enumerate(lengths)], out)
    np.testing.assert_array_equal(out, IDS)


def test_the_headers_of_all_parts_are_looked_at_without_reading_the_rest(tmp_path: Path) -> None:
    parts: list[Part] = []
    for number in range(40):
        prefix = write_index(tmp_path / f"part-{number:05}")
        parts.append(bare_part(prefix))
    assert header_problems(parts, 50) == []
    for number in (31, 7):
        write_index(tmp_path / f"part-{number:05}", borders=range(NUM_SEQUENCES))
    first, second = header_problems(parts, 50)
    assert "part-00007.idx is damaged" in first
    assert "part-00031.idx is damaged" in second


def test_a_channel_of_such_a_part_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    prefix = write_index(tmp_path / "other", borders=range(NUM_SEQUENCES))
    with pytest.raises(DataError, match="the last border, which is the number of sequences, is missing"):
        open_channel("c", ChannelConfig(path=prefix))
