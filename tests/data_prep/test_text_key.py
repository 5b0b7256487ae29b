"""Text under nested keys and in every kind of column, in JSON and in Parquet alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.text.order_files import OrderJob, order_files
from data_prep.text.read_documents import Rejection, parse_line, read_records, with_text
from data_prep.text.sample_documents import sample_documents
from harness.errors import DataError

NESTED: list[tuple[dict[str, Any], str, str]] = [
    ({"meta": {"text": "hello"}}, "meta.text", "hello"),
    ({"meta.text": "literal", "meta": {"text": "nested"}}, "meta.text", "literal"),
    ({"a": {"b.c": "within"}}, "a.b.c", "within"),
    ({"a.b": {"c": "before"}}, "a.b.c", "before"),
    ({"a": {"b": {"c": "deep"}}, "id": 1}, "a.b.c", "deep"),
    ({".": "dot"}, ".", "dot"),
]


@pytest.mark.parametrize(("record", "key", "text"), NESTED)
def test_a_key_with_dots_leads_into_objects_unless_it_is_there_as_it_is(
    record: dict[str, Any], key: str, text: str
) -> None:
    assert parse_line(json.dumps(record).encode(), key) == text
    changed = with_text(record, key, "new")
    assert parse_line(json.dumps(changed).encode(), key) == "new"
    assert json.dumps(record).replace(f'"{text}"', '"new"') == json.dumps(changed)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"meta": "text"}', "no key 'meta.text'"),
        ('{"meta": [{"text": "x"}]}', "no key 'meta.text'"),
        ('{"meta": null}', "no key 'meta.text'"),
        ('{"meta": {"text": null}}', "'meta.text' is not text"),
        ('{"meta": {"text": "a", "text": "b"}}', "key 'text' occurs twice in an object"),
    ],
)
def test_nested_keys_that_hold_no_text(line: str, reason: str) -> None:
    assert parse_line(line.encode(), "meta.text") == Rejection(reason)


def test_a_key_twice_is_rejected_and_a_key_that_is_only_named_again_is_not() -> None:
    assert parse_line(b'{"text": "a", "text": "b"}', "text") == Rejection("key 'text' occurs twice in an object")
    assert parse_line(b'{"text": "say \\"text\\"", "kind": "text", "more": {"text": 1}}', "text") == 'say "text"'


def write_table(file: Path, **columns: Any) -> Path:  # noqa: ANN401
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), file, row_group_size=2)
    return file


def contents(file: Path, key: str) -> list[object]:
    plain = [record.content for record in read_records(file, key)]
    whole = [record.content for record in read_records(file, key, whole_rows=True)]
    assert plain == whole
    return plain


@pytest.mark.parametrize("kind", ["string_view", "binary_view", "large_string", "large_binary", "binary"])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_every_kind_of_text_column(tmp_path: Path, kind: str, is_dictionary: bool) -> None:
    arrow = pytest.importorskip("pyarrow")
    column = arrow.array(["one", None, "春眠", "", "one"]).cast(getattr(arrow, kind)())
    if is_dictionary:
        if kind.endswith("view"):
            pytest.skip("arrow makes no dictionary of views")
        column = column.dictionary_encode()
    file = write_table(tmp_path / "a.parquet", text=column, id=list(range(5)))
    null = Rejection("'text' is not text")
    assert contents(file, "text") == ["one", null, "春眠", Rejection("empty text"), "one"]
    assert sample_documents([file], "text", 100) == ["one", "春眠", "one"]


def test_a_column_of_nulls_has_rows_without_text(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", text=pytest.importorskip("pyarrow").nulls(3))
    assert contents(file, "text") == [Rejection("'text' is not text")] * 3


def test_fields_of_structs_are_named_with_dots(tmp_path: Path) -> None:
    rows = [{"text": "x", "more": {"body": "y"}}, None, {"text": None, "more": None}]
    file = write_table(tmp_path / "a.parquet", meta=rows, id=[1, 2, 3])
    null = Rejection("'meta.text' is not text")
    assert contents(file, "meta.text") == ["x", null, null]
    null = Rejection("'meta.more.body' is not text")
    assert contents(file, "meta.more.body") == ["y", null, null]
    (raw, *_) = (record.raw for record in read_records(file, "meta.text", whole_rows=True))
    assert json.loads(raw) == {"meta": {"text": "x", "more": {"body": "y"}}, "id": 1}
    with pytest.raises(DataError, match=r"no column 'meta\.no'; its columns are meta\..*meta\.more\.body.*, id\. Name"):
        contents(file, "meta.no")
    with pytest.raises(DataError, match=r"column 'meta' holds struct<.*not text"):
        contents(file, "meta")


def test_a_column_with_a_dot_in_its_name_wins(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", **{"a": [{"b": "nested"}], "a.b": ["literal"]})
    assert contents(file, "a.b") == ["literal"]
    (record,) = read_records(file, "a.b", whole_rows=True)
    assert json.loads(record.raw) == {"a": {"b": "nested"}, "a.b": "literal"}


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    parquet.write_table(arrow.table([arrow.array(["x"])] * 2 + [arrow.array(["y"])], names=["text", "text", "b"]), file)
    with pytest.raises(DataError, match=r"two columns are called 'text', so it is not known which one is meant"):
        list(read_records(file, "text"))
    assert [record.content for record in read_records(file, "b")] == ["y"]
    # Whole rows become JSON objects, which hold every name once.
    with pytest.raises(DataError, match="two columns are called 'text'"):
        list(read_records(file, "b", whole_rows=True))


def test_a_row_that_is_not_utf8_costs_no_other_row(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", text=[b"one", b"caf\xe9", b"three"], id=[1, 2, 3])
    assert contents(file, "text") == ["one", Rejection("not UTF-8 (byte 0xe9 at position 3)"), "three"]


def test_a_nested_score_orders(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    records = [{"body": {"text": text}, "meta": {"score": score}} for text, score in (("b", 2), ("a", 1), ("c", 3))]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "out").mkdir()
    job = OrderJob(
        files=[file], folder=tmp_path / "out", by="score", text_key="body.text", score_key="meta.score", descending=True
    )
    assert order_files(job).documents == 3
    made = read_records(tmp_path / "out" / "00000.jsonl.gz", "body.text")
    assert [record.content for record in made] == ["c", "b", "a"]
