from __future__ import annotations

import json
import os
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from data_prep.channels.indexed_writer import PartWriter, read_finished_parts, token_dtype
from harness.errors import DataError
from harness.run.files import replace_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

DOCUMENTS = [[5, 6, 7], [0], [], [65_000, 1, 2, 3], [9] * 100]


def write_part(folder: Path, documents: list[list[int]], number: int = 0, vocab_size: int = 65_536) -> Path:
    writer = PartWriter(folder, number, token_dtype(vocab_size))
    for document in documents:
        writer.add_document(document)
    return folder / writer.finish().prefix


def write_with_megatron(prefix: Path, documents: list[list[int]], dtype: type) -> None:
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        builder.add_item(torch.tensor(document, dtype=torch.int64))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.int32), (4096, np.uint16)])
@pytest.mark.parametrize("documents", [DOCUMENTS, [], [[1]], [[]]])
def test_files_are_megatrons_to_the_byte(
    tmp_path: Path, documents: list[list[int]], vocab_size: int, dtype: type
) -> None:
    prefix = write_part(tmp_path, documents, vocab_size=vocab_size)
    write_with_megatron(tmp_path / "theirs", documents, dtype)
    for suffix in (".bin", ".idx"):
        assert prefix.with_suffix(suffix).read_bytes() == (tmp_path / "theirs").with_suffix(suffix).read_bytes()


@given(documents=st.lists(st.lists(st.integers(0, 99_999), max_size=20), max_size=20))
def test_any_documents_are_written_as_megatron_does(
    documents: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("part")
    prefix = write_part(folder, documents, vocab_size=100_000)
    write_with_megatron(folder / "theirs", documents, np.int32)
    for suffix in (".bin", ".idx"):
        assert prefix.with_suffix(suffix).read_bytes() == (folder / "theirs").with_suffix(suffix).read_bytes()


def test_index_lies_as_documented(tmp_path: Path) -> None:
    index = write_part(tmp_path, [[1, 2], [3, 4, 5]]).with_suffix(".idx").read_bytes()
    assert index == (
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, 8, 2, 3)
        + struct.pack("<2i", 2, 3)
        + struct.pack("<2q", 0, 4)
        + struct.pack("<3q", 0, 1, 2)
    )


def test_megatron_reads_the_documents(tmp_path: Path) -> None:
    dataset = IndexedDataset(str(write_part(tmp_path, DOCUMENTS)))
    assert [dataset[i].tolist() for i in range(len(dataset))] == DOCUMENTS


def test_line_of_a_finished_part(tmp_path: Path) -> None:
    prefix = write_part(tmp_path, DOCUMENTS, number=7)
    line = (tmp_path / "parts.jsonl").read_text()
    binary = prefix.with_suffix(".bin").read_bytes()
    digest = xxhash.xxh3_64_hexdigest(binary)
    assert line == (
        f'{{"prefix": "part-00007", "tokens": 108, "documents": 5, "bin_bytes": {len(binary)}, "xxh3": "{digest}"}}\n'
    )
    assert list(tmp_path.glob("*.partial")) == []


def test_both_files_are_on_disk_before_the_part_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (known.append(os.fstat(descriptor).st_ino), real(descriptor)))
    prefix = write_part(tmp_path, DOCUMENTS)
    files = [prefix.with_suffix(".bin"), prefix.with_suffix(".idx"), tmp_path, tmp_path / "parts.jsonl", tmp_path]
    assert known == [file.stat().st_ino for file in files]


def test_nothing_has_its_name_before_finish(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, 0, token_dtype(100))
    writer.add_document([1, 2, 3])
    assert [file.name for file in tmp_path.iterdir()] == ["part-00000.bin.partial"]
    writer.close()
    assert list(tmp_path.iterdir()) == []
    assert read_finished_parts(tmp_path) == []


def test_half_a_line_of_a_killed_writer_is_no_part_and_goes_away(tmp_path: Path) -> None:
    write_part(tmp_path, [[1]])
    with (tmp_path / "parts.jsonl").open("a") as lines:
        lines.write('{"prefix": "part-000')
    assert len(read_finished_parts(tmp_path)) == 1
    write_part(tmp_path, [[2]], number=1)
    assert [part.prefix for part in read_finished_parts(tmp_path)] == ["part-00000", "part-00001"]
    assert all(json.loads(line) for line in (tmp_path / "parts.jsonl").read_text().splitlines())


def test_an_id_beyond_the_vocabulary_never_wraps_around(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, 0, token_dtype(100))
    with pytest.raises(OverflowError):
        writer.add_document([65_536])
    writer.close()


def test_changed_binary_is_noticed(tmp_path: Path) -> None:
    binary = write_part(tmp_path, [[1, 2, 3]]).with_suffix(".bin")
    binary.write_bytes(b"1234")
    expected = (
        r"parts.jsonl:1: part-00000\.bin should be there with 6 bytes and its \.idx, but has 4 bytes, or no \.idx"
    )
    with pytest.raises(DataError, match=expected):
        read_finished_parts(tmp_path)
    binary.unlink()
    with pytest.raises(DataError, match=r"but is missing\. Restore the files, or delete the channel folder"):
        read_finished_parts(tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not a line of parts.jsonl: "),
        ("[]", "not a JSON object: "),
        ('{"prefix": "part-00000"}', "the keys are `prefix`; expected "),
    ],
)
def test_edited_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    write_part(tmp_path, [[1]])
    with (tmp_path / "parts.jsonl").open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(DataError, match=r"parts\.jsonl:2 \(byte \d+\): " + re.escape(told)):
        read_finished_parts(tmp_path)


def test_write_whole_replaces(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        replace_file(tmp_path / "file", content)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"new")]
