"""Reads the rows of one text column of a Parquet file, a few thousand at a time."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from data_prep.text.input_file import InputFile, file_bytes, open_bytes
from data_prep.text.text_key import key_path
from harness.errors import DataError, UsageError

ROWS_AT_ONCE = 1024


class Row(NamedTuple):
    """One row of a Parquet file."""

    number: int
    """1-based."""
    content: bytes | None
    """The text, which may not be UTF-8; None where there is none."""
    file_bytes_read: int
    """Bytes of the file that stand for the rows so far (in proportion: Parquet keeps columns apart)."""
    whole: Mapping[str, Any]
    """All columns, if they were asked for; the place of the text may hold None."""


def read_rows(file: InputFile, column: str, skip_rows: int = 0, whole: bool = False) -> Iterator[Row]:
    """Yield the rows of a column of text, from row `skip_rows` (0-based) on; row groups before it are not read.

    `meta.text` is the field `text` of the column `meta`, unless a column has that name. With `whole` the other columns
    are read too, which takes longer.

    Raises:
        DataError: The file is damaged, has no column of text of that name, or two.
        UsageError: The package pyarrow is not installed.
    """
    arrow, parquet = _libraries(file)
    total_bytes = file_bytes(file)
    try:
        with open_bytes(file) as raw:
            table = parquet.ParquetFile(raw)
            path = find_column(arrow, table.schema_arrow, column, file, whole)
            num_rows = table.metadata.num_rows
            group, number = _first_group(table.metadata, skip_rows)
            groups = list(range(group, table.metadata.num_row_groups))
            # A name with dots is a path for the library: it would read the nested column of that path.
            columns = None if whole or (len(path) == 1 and "." in column) else [column]
            for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=columns):
                rows = _rows(batch, path) if whole else repeat({})
                for value, row in zip(_as_bytes(arrow, _values(batch, path)), rows, strict=False):
                    number += 1
                    if number > skip_rows:
                        yield Row(number, value, total_bytes * number // num_rows, row)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(_damaged(file, error)) from error


def count_rows(file: InputFile) -> int:
    """Return the number of rows that the file's footer states.

    Raises:
        DataError: The file is damaged.
        UsageError: The package pyarrow is not installed.
    """
    arrow, parquet = _libraries(file)
    try:
        with open_bytes(file) as raw:
            return int(parquet.ParquetFile(raw).metadata.num_rows)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(_damaged(file, error)) from error


def _libraries(file: InputFile) -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"{file}: reading Parquet needs the Python package pyarrow, which is not installed. Install the project "
            "with its `data-fast` extra, or write the text as .jsonl.gz."
        ) from error


def _damaged(file: InputFile, error: Exception) -> str:
    return f"{file}: cannot be read ({error}). The file is not Parquet, or is damaged or cut short: fetch it again."


def find_column(arrow: Any, schema: Any, column: str, file: InputFile, whole: bool) -> tuple[str, ...]:  # noqa: ANN401 - pyarrow has no types
    """Return the names that lead to a column of text.

    Raises:
        DataError: There is none of that name, or it holds something else, or the name does not tell which of two.
    """
    path = key_path([schema], column, partial(_field, arrow))
    if path is None:
        raise DataError(
            f"{file}: there is no column {column!r}; its columns are {', '.join(map(_shown, _names(arrow, schema)))}. "
            "Name the one that holds the text with --text-key."
        )
    twice = _doubled(arrow, schema, path, is_anywhere=whole)
    if twice is not None:
        raise DataError(
            f"{file}: two columns are called {twice!r}, so it is not known which one is meant. Write the file again "
            "with other names."
        )
    kind = [schema]
    for name in path:
        kind = _field(arrow, kind, name) or kind
    if not _is_text(arrow, kind[0]):
        raise DataError(
            f"{file}: column {column!r} holds {_shown(str(kind[0]))}, not text. Name the one that holds the "
            "text with --text-key."
        )
    return path


def _doubled(arrow: Any, schema: Any, path: tuple[str, ...], *, is_anywhere: bool) -> str | None:  # noqa: ANN401
    """Return the name of two columns, or of two fields of a struct, that are in the way; fields with dots.

    In the way are those on the path to the text, and with `is_anywhere` all others.
    """
    on_path = {".".join(path[: length + 1]) for length in range(len(path))}
    return next((name for name in _doubled_names(arrow, schema) if is_anywhere or name in on_path), None)


def _doubled_names(arrow: Any, parent: Any, before: str = "") -> Iterator[str]:  # noqa: ANN401
    fields = list(parent)
    yield from sorted(before + name for name, count in Counter(field.name for field in fields).items() if count > 1)
    for field in fields:
        if arrow.types.is_struct(field.type):
            yield from _doubled_names(arrow, field.type, f"{before}{field.name}.")


def _shown(name: str) -> str:
    """Return a name as it is, or spelt out if it holds a line break or another character that is not printed."""
    return name if name.isprintable() else repr(name)


def _field(arrow: Any, node: list[Any], name: str) -> list[Any] | None:  # noqa: ANN401
    """Return the type of a column or of a struct's field, in a list of one; None if there is no such column."""
    parent = node[0]
    is_struct = not isinstance(parent, arrow.Schema) and arrow.types.is_struct(parent)
    if not (is_struct or isinstance(parent, arrow.Schema)):
        return None
    found = parent.get_all_field_indices(name)
    return [parent.field(found[0]).type] if found else None


def _names(arrow: Any, parent: Any, before: str = "") -> Iterator[str]:  # noqa: ANN401
    """Yield the names of columns, those of the fields of structs with dots."""
    for field in parent:
        if arrow.types.is_struct(field.type):
            yield from _names(arrow, field.type, f"{before}{field.name}.")
        else:
            yield before + field.name


def _is_text(arrow: Any, kind: Any) -> bool:  # noqa: ANN401
    kinds = arrow.types
    if kinds.is_dictionary(kind):
        return _is_text(arrow, kind.value_type)
    if isinstance(kind, arrow.BaseExtensionType):
        return _is_text(arrow, kind.storage_type)
    tests = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
    # A column of nulls alone has no type that could say what else it would hold.
    return any(
        test(kind) for test in (*tests, kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view, kinds.is_null)
    )


def _first_group(metadata: Any, skip_rows: int) -> tuple[int, int]:  # noqa: ANN401
    """Return the row group that holds the row after `skip_rows`, and the number of rows before that group."""
    before = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if before + rows > skip_rows:
            return group, before
        before += rows
    return int(metadata.num_row_groups), before


def _values(batch: Any, path: tuple[str, ...]) -> Any:  # noqa: ANN401
    """Return the column at the end of a path; where a struct is null, so is its field."""
    values = batch.column(path[0])
    for name in path[1:]:
        field = [values.type.get_field_index(name)]
        values = importlib.import_module("pyarrow.compute").struct_field(values, field)
    return values


def _rows(batch: Any, path: tuple[str, ...]) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return all columns by rows. A column of text is left out: one row that is not UTF-8 would cost all of them."""
    if len(path) > 1:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    if batch.num_columns == 1:
        return [{path[0]: None} for _ in range(batch.num_rows)]
    return [{path[0]: None, **row} for row in batch.drop_columns([path[0]]).to_pylist()]


def _as_bytes(arrow: Any, values: Any) -> list[bytes | None]:  # noqa: ANN401
    """Return the values as bytes: pyarrow would refuse a whole batch for one row that is not UTF-8."""
    if isinstance(values.type, arrow.BaseExtensionType):
        values = values.storage
    if arrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kinds = arrow.types
    is_short = kinds.is_string(values.type) or kinds.is_binary(values.type) or kinds.is_null(values.type)
    result: list[bytes | None] = values.cast(arrow.binary() if is_short else arrow.large_binary()).to_pylist()
    return result
