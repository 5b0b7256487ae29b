"""Columns of Parquet whose names do not say which one is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.text.read_documents import read_records
from harness.errors import DataError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def struct(*names: str) -> object:
    """A column of structs with fields of these names; each holds its name and number."""
    arrays = [arrow.array([f"{name}{number}"]) for number, name in enumerate(names)]
    fields = [arrow.field(name, arrow.string()) for name in names]
    return arrow.StructArray.from_arrays(arrays, fields=fields)


def write(file: Path, **columns: object) -> Path:
    parquet.write_table(arrow.table(columns), file)
    return file


@pytest.mark.parametrize("whole", [False, True])
def test_two_fields_of_one_name_are_named(tmp_path: Path, whole: bool) -> None:
    file = write(tmp_path / "a.parquet", id=[1], meta=struct("text", "text"))
    with pytest.raises(DataError, match=r"a\.parquet: two columns are called 'meta\.text', so it is not known which"):
        list(read_records(file, "meta.text", whole_rows=whole))


def test_two_fields_in_another_place_are_in_the_way_of_whole_rows_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", text=["one"], meta=struct("url", "url"))
    assert [record.content for record in read_records(file, "text")] == ["one"]
    with pytest.raises(DataError, match=r"two columns are called 'meta\.url'"):
        list(read_records(file, "text", whole_rows=True))


def test_a_field_deep_inside_and_a_struct_twice(tmp_path: Path) -> None:
    inner = struct("text", "text")
    outer = arrow.StructArray.from_arrays([inner], names=["b"])
    with pytest.raises(DataError, match=r"two columns are called 'a\.b\.text'"):
        list(read_records(write(tmp_path / "a.parquet", a=outer), "a.b.text"))
    single = struct("text")
    twice = arrow.StructArray.from_arrays([single, single], names=["b", "b"])
    with pytest.raises(DataError, match=r"two columns are called 'a\.b'"):
        list(read_records(write(tmp_path / "b.parquet", a=twice), "a.b.text"))


def test_names_with_line_breaks_stay_on_one_line(tmp_path: Path) -> None:
    odd = "two\nlines\x1b[31m"
    file = write(tmp_path / "a.parquet", **{odd: [1], "body": ["one"], "m": struct("x\ny")})
    with pytest.raises(DataError, match="there is no column 'text'; its columns are") as at:
        list(read_records(file, "text"))
    assert r"its columns are 'two\nlines\x1b[31m', body, 'm.x\ny'. Name the one" in str(at.value)
    assert str(at.value).isprintable()
    with pytest.raises(DataError, match="holds .?struct") as at:
        list(read_records(file, "m"))
    assert str(at.value).isprintable()
    with pytest.raises(DataError, match="holds int64, not text") as at:
        list(read_records(file, odd))
    assert str(at.value).isprintable()
