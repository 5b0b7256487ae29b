"""What stands in the files of a part: every kind of damage has a message, and none gets as far as Megatron."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_parts import VOCAB_SIZE, IndexedDatasetBuilder, random_documents, write_part

from harness.channels.parts import Part
from harness.data.files.document_table import DocumentSpan, IndexArrays, document_table
from harness.data.files.mcore import MappedPart
from harness.errors import DataError


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_tokens_are_those_of_the_documents(tmp_path: Path, dtype: type) -> None:
    documents = random_documents(20)
    part = MappedPart(write_part(tmp_path / "part", documents, dtype), VOCAB_SIZE)
    assert part.lengths_of(np.arange(20)).tolist() == [len(document) for document in documents]
    for number, document in enumerate(documents):
        tokens = np.empty(len(document) - 1, dtype=np.int64)
        part.read([DocumentSpan(number, 1, len(tokens))], tokens)
        assert np.array_equal(tokens, document[1:])


def test_document_of_several_sequences_and_empty_documents(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "part.bin"), dtype=np.uint16)
    builder.add_document(np.arange(5), [2, 3])
    builder.add_document(np.arange(0), [])
    builder.add_document(np.arange(5, 9), [4])
    builder.finalize(str(tmp_path / "part.idx"))
    listed = Part(prefix=tmp_path / "part", name="part", num_tokens=9, num_documents=3, bin_bytes=18, xxh3=None)
    part = MappedPart(listed, VOCAB_SIZE)
    tokens = np.empty(4, dtype=np.int64)
    part.read([DocumentSpan(2, 0, 4)], tokens)
    assert part.lengths_of(np.arange(3)).tolist() == [5, 0, 4]
    assert tokens.tolist() == [5, 6, 7, 8]


def test_lengths_outlive_the_part(tmp_path: Path) -> None:
    documents = random_documents(20)
    lengths = MappedPart(write_part(tmp_path / "part", documents), VOCAB_SIZE).lengths_of(np.arange(20))
    assert lengths.sum() == sum(map(len, documents))  # a view of the closed map would end the process


def test_every_flipped_bit_of_the_header_is_noticed(tmp_path: Path) -> None:
    part = write_part(tmp_path / "part", random_documents(6))
    header = part.idx_path.read_bytes()[:34]
    for bit in range(8 * len(header)):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << (bit % 8)
        overwrite(part.idx_path, 0, flipped)
        with pytest.raises(DataError):
            MappedPart(part, VOCAB_SIZE)
    overwrite(part.idx_path, 0, header)
    MappedPart(part, VOCAB_SIZE)


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"X", "part.idx is not an index of a .bin file: it begins with .*, version 1; expected .*, version 1"),
        (9, b"\x02", "part.idx is not an index of a .bin file: it begins with .*, version 2; expected"),
        (17, b"\x07", r"part.idx has token type code 7; allowed are 1 \(uint8\).*8 \(uint16\)"),
        (17, b"\x04", r"part.bin: \d+ tokens of int32 make \d+ bytes, found \d+"),
        (18, b"\x07", "part.idx is truncated or altered: its header says 7 sequences and 6 documents, which makes"),
        (34, b"\x00\x00\x00\x80", "part.idx is damaged: sequence 0 has length -2147483648"),
        (
            34 + 4,
            b"\x01\x01",
            r"part.idx is damaged: sequence 2 begins at byte \d+, but the sequences before it end at",
        ),
        (34 + 20, b"\xff\x00", r"part.bin is not what its index says: .* in part.idx make \d+ bytes, the file has"),
        (34 + 24 + 8, b"\xff\xff", "part.idx is damaged: sequence 1 begins at byte 65535, but the sequences before it"),
        (34 + 72, b"\x01", "part.idx is damaged: its document borders do not rise from 0 to its 6 sequences"),
        (34 + 72 + 8, b"\x06", "part.idx is damaged: its document borders do not rise"),
    ],
)
def test_damaged_index(tmp_path: Path, offset: int, content: bytes, message: str) -> None:
    part = write_part(tmp_path / "part", random_documents(6))
    overwrite(part.idx_path, offset, content)
    with pytest.raises(DataError, match=message):
        MappedPart(part, VOCAB_SIZE)


def test_truncated_index(tmp_path: Path) -> None:
    part = write_part(tmp_path / "part", random_documents(6))
    content = part.idx_path.read_bytes()
    part.idx_path.write_bytes(content[:-3])
    with pytest.raises(DataError, match=rf"which makes {len(content)} bytes; found {len(content) - 3}. Make the part"):
        MappedPart(part, VOCAB_SIZE)
    part.idx_path.write_bytes(content[:20])
    with pytest.raises(DataError, match="part.idx is truncated: found 20 bytes, its header alone has 34"):
        MappedPart(part, VOCAB_SIZE)
    part.idx_path.unlink()
    with pytest.raises(DataError, match="cannot find .*part.idx: No such file"):
        MappedPart(part, VOCAB_SIZE)


def test_token_type_too_narrow_for_the_vocabulary(tmp_path: Path) -> None:
    part = write_part(tmp_path / "part", random_documents(6))
    MappedPart(part, 65536)
    with pytest.raises(DataError, match="holds tokens as uint16, which ends at id 65535, but the vocabulary has 65537"):
        MappedPart(part, 65537)


def test_index_of_another_part(tmp_path: Path) -> None:
    part = write_part(tmp_path / "part", random_documents(6))
    with pytest.raises(DataError, match="part.idx says 6 documents, the channel says 5"):
        MappedPart(replace(part, num_documents=5), VOCAB_SIZE)


def test_empty_part(tmp_path: Path) -> None:
    part = write_part(tmp_path / "part", [np.arange(0)])
    with pytest.raises(DataError, match="part.bin is empty: its documents have no tokens"):
        MappedPart(part, VOCAB_SIZE)


def test_long_index_is_checked_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.files.document_table._BLOCK", 4)
    lengths = np.arange(1, 11, dtype=np.int32)
    pointers = 2 * (np.cumsum(lengths) - lengths).astype(np.int64)
    arrays = IndexArrays(sequence_lengths=lengths, sequence_pointers=pointers, document_indices=np.arange(11))
    table = document_table(Path("part.idx"), arrays, 2, 110)
    assert table.byte_offsets.tolist() == pointers.tolist()
    pointers[9] += 2
    with pytest.raises(DataError, match="sequence 9 begins at byte 92, but the sequences before it end at byte 90"):
        document_table(Path("part.idx"), arrays, 2, 110)
