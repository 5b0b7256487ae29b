from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.text.input_file import InputFile, RemoteFile, file_bytes
from data_prep.text.input_files import find_inputs
from data_prep.text.read_documents import Rejection, read_records
from data_prep.text.sample_documents import sample_documents
from harness.errors import DataError, UsageError

TEXTS = ["one", "春眠不觉晓", "three"]


def jsonl(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in texts)


@pytest.fixture
def memory() -> Iterator[str]:
    """An address in fsspec's memory file system, with three files under it."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.pipe("/corpus/b.jsonl", jsonl(TEXTS))
    system.pipe("/corpus/a.jsonl.gz", gzip.compress(jsonl(TEXTS)))
    system.pipe("/corpus/readme.txt", b"no corpus")
    yield "memory://corpus"
    system.rm("/corpus", recursive=True)


def texts_of(file: InputFile) -> list[object]:
    return [record.content for record in read_records(file, "text")]


def test_a_folder_at_an_address(memory: str) -> None:
    files = find_inputs([memory])
    assert [file.name for file in files] == ["a.jsonl.gz", "b.jsonl"]
    assert [texts_of(file) for file in files] == [TEXTS, TEXTS]
    assert file_bytes(files[1]) == len(jsonl(TEXTS))


@pytest.mark.parametrize("pattern", ["*.jsonl", "b.jsonl"])
def test_patterns_and_single_files_at_an_address(memory: str, pattern: str) -> None:
    (file,) = find_inputs([f"{memory}/{pattern}"])
    assert (str(file).startswith("memory://"), file.name, texts_of(file)) == (True, "b.jsonl", TEXTS)


def test_nothing_or_something_else_at_an_address(memory: str) -> None:
    with pytest.raises(UsageError, match=r"no input at memory://corpus/\*\.parquet: no such file"):
        find_inputs([f"{memory}/*.parquet"])
    with pytest.raises(UsageError, match=r"readme\.txt: the name must end in one of \.jsonl"):
        find_inputs([f"{memory}/readme.txt"])
    with pytest.raises(UsageError, match=r"b\.jsonl is named twice"):
        find_inputs([memory, f"{memory}/b.jsonl"])


def test_addresses_need_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(
        UsageError, match=r"input nosuch://x: this kind of address cannot be read .*copy the files here"
    ):
        find_inputs(["nosuch://x"])
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(
        UsageError, match=r"s3://bucket/x: reading an address needs the Python package fsspec.*data-fast"
    ):
        find_inputs(["s3://bucket/x"])


def test_a_file_system_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        def isfile(self, path: str) -> bool:
            raise ConnectionError("no route to host")

    monkeypatch.setattr("data_prep.text.remote_files.file_system", lambda address: (Dead(), address))
    with pytest.raises(
        DataError, match=r"s3://b/x: the file system does not answer \(ConnectionError: no route to host"
    ):
        find_inputs(["s3://b/x"])


def test_a_remote_file_knows_its_name() -> None:
    file = RemoteFile("s3://bucket/zh/0.jsonl.gz")
    assert (file.name, str(file)) == ("0.jsonl.gz", "s3://bucket/zh/0.jsonl.gz")


def write_parquet(file: Path, column: object, **options: object) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"id": list(range(len(column))), "text": column})  # type: ignore[arg-type]
    parquet.write_table(table, file, **options)
    return file


def test_rows_of_a_parquet_file_are_documents(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", ["one", None, "", "春", " \n"], row_group_size=2)
    records = list(read_records(file, "text"))
    assert [record.line for record in records] == [1, 2, 3, 4, 5]
    assert [record.content for record in records] == [
        "one",
        Rejection("'text' is not text"),
        Rejection("empty text"),
        "春",
        Rejection("empty text"),
    ]
    assert records[-1].file_bytes_read == file.stat().st_size


@pytest.mark.parametrize("kind", ["large_string", "binary", "large_binary", "dictionary"])
def test_other_ways_to_hold_text_in_parquet(tmp_path: Path, kind: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    column = arrow.array(TEXTS)
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(arrow, kind)())
    assert texts_of(write_parquet(tmp_path / "a.parquet", column)) == TEXTS


def test_a_row_that_is_not_utf8_is_rejected_alone(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [b"one", b"caf\xe9", b"three"])
    assert texts_of(file) == ["one", Rejection("not UTF-8 (byte 0xe9 at position 3)"), "three"]


def test_parquet_without_the_column(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(DataError, match=r"there is no column 'body'; its columns are id, text\. Name .* --text-key"):
        list(read_records(file, "body"))
    with pytest.raises(DataError, match=r"column 'id' holds int64, not text"):
        list(read_records(file, "id"))


def test_damaged_parquet(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", TEXTS)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(
        DataError, match=r"a\.parquet: cannot be read .*is not Parquet, or is damaged or cut short: fetch it again"
    ):
        list(read_records(file, "text"))
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        sample_documents([file], "text", 10)


def test_parquet_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UsageError, match=r"Parquet needs the Python package pyarrow.*or write the text as \.jsonl\.gz"):
        list(read_records(tmp_path / "a.parquet", "text"))


def test_reading_goes_on_at_the_end_of_any_record(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    content = jsonl(TEXTS) + b"\n" + jsonl(["last"])
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(content))
    write_parquet(tmp_path / "a.parquet", [*TEXTS, "", "last"], row_group_size=2)
    for file in sorted(tmp_path.iterdir()):
        records = list(read_records(file, "text"))
        assert len(records) == 5
        for done, record in enumerate(records, start=1):
            assert list(read_records(file, "text", start=record.end)) == records[done:], (file, done)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_input_that_changed_before_the_place_is_refused(tmp_path: Path, name: str) -> None:
    def write(content: bytes) -> None:
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    write(jsonl(TEXTS))
    second = list(read_records(tmp_path / name, "text"))[1]
    for changed in (jsonl(["two", *TEXTS]), jsonl(["one"])):
        write(changed)
        with pytest.raises(
            DataError, match=r"is no longer the end of line 2, .*The input was changed: delete the chann"
        ):
            list(read_records(tmp_path / name, "text", start=second.end))


def test_a_sample_has_something_from_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([f"{number:05d}" for number in range(3200)]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl([f"{number:05d}" for number in range(5000, 8000)])))
    sample = [int(text) for text in sample_documents(find_inputs([str(tmp_path)]), "text", 17 * 30)]
    assert 80 <= len(sample) <= 120
    for first in range(0, 3200, 200):
        assert any(first <= number < first + 200 for number in sample)
    assert any(number >= 5000 for number in sample)
    assert sample == sorted(set(sample))
    write_parquet(tmp_path / "c.parquet", [f"{number:05d}" for number in range(320)], row_group_size=7)
    assert [int(text) for text in sample_documents([tmp_path / "c.parquet"], "text", 160)] == list(range(0, 320, 10))


def test_a_sample_of_little_is_all_of_it_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(["x" * 1000]))
    assert sample_documents([tmp_path / "a.jsonl"], "text", 100) == ["x" * 100]
    texts = [f"{number:05d}" for number in range(320)]
    (tmp_path / "c.jsonl").write_bytes(jsonl(texts))
    assert sample_documents([tmp_path / "c.jsonl"], "text", 10**9) == texts
    (tmp_path / "b.jsonl").touch()
    assert sample_documents([tmp_path / "b.jsonl"], "text", 100) == []


def test_at_an_address_packed_files_are_held_to_their_name_too(memory: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.pipe("/corpus/c.jsonl", gzip.compress(jsonl(TEXTS)))
    with pytest.raises(DataError, match=r"c\.jsonl: its content is gz, though by its name it is not packed"):
        texts_of(RemoteFile("memory://corpus/c.jsonl"))
    system.pipe("/corpus/c.jsonl.gz", b"")
    with pytest.raises(DataError, match=r"c\.jsonl\.gz: cannot be read beyond line 0 \(it has 0 bytes"):
        texts_of(RemoteFile("memory://corpus/c.jsonl.gz"))
