"""Reads the rows of one text column of a Parquet file, a few thousand at a time."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from data_prep.text.input_file import InputFile, file_bytes, open_bytes
from data_prep.text.record_names import NO_NAMES, NameKeys, as_name, paths_of_names
from data_prep.text.text_key import key_path
from harness.errors import DataError, UsageError
from harness.expansion import ExpansionError, check_expansion

ROW_BYTES = 512
"""Bytes that a row counts in memory and in lists, however empty it is."""
BUFFER_BYTES = 8 << 20
"""Bytes of a column that are read at once: else it would be all of a row group, however large."""
MOST_ENTRIES = 1_000_000
MOST_FOOTER_BYTES = 100_000_000
"""The library's own limits to lists and texts in a footer."""


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
    name: str = ""
    """The row's id or URL, if it was asked for and the row has one."""


@dataclass(frozen=True, kw_only=True)
class OpenTable:
    """An open Parquet file, and the place of its text."""

    file: InputFile
    arrow: Any
    """The package pyarrow."""
    table: Any
    """Its reader of this file."""
    column: str
    path: tuple[str, ...]
    """Names that lead to the text."""
    whole: bool
    """True if the other columns are read too."""
    names: tuple[tuple[str, ...], ...] = ()
    """Ways to the columns of ids and URLs that are read; the first that a row has is taken."""


def read_rows(
    file: InputFile, column: str, skip_rows: int = 0, whole: bool = False, names: NameKeys = NO_NAMES
) -> Iterator[Row]:
    """Yield the rows of a column of text, from row `skip_rows` (0-based) on; row groups before it are not read.

    `meta.text` is the field `text` of the column `meta`, unless a column has that name. With `whole` the other columns
    are read too, which takes longer. `names` are keys of the id or URL of a row. A limited child reads the file first.

    Raises:
        DataError: The file is damaged, stands for far more than text can or takes too much memory, has fewer rows than
            are skipped, or has no column of text of that name, or two.
        UsageError: The package pyarrow is not installed.
    """
    from data_prep.text.parquet_probe import rows_at_once

    _libraries(file)
    num_rows = rows_at_once(file, column, whole, names)
    with open_table(file, column, whole, names) as opened:
        if skip_rows > opened.table.metadata.num_rows:
            raise DataError(
                f"{file}: has {opened.table.metadata.num_rows:,} rows, and the interrupted call was in row "
                f"{skip_rows:,}. The input was changed: delete the channel folder to make it anew."
            )
        yield from read_table(opened, skip_rows, num_rows, file_bytes(file))


@contextmanager
def open_table(file: InputFile, column: str, whole: bool, names: NameKeys = NO_NAMES) -> Iterator[OpenTable]:
    """Open a file, and find its column of text, and those of ids and URLs.

    Raises:
        DataError: It is damaged, here or while it is read, or has no such column.
        UsageError: The package pyarrow is not installed.
        MemoryError: There is not enough.
    """
    arrow, parquet = _libraries(file)
    try:
        with open_bytes(file) as raw:
            table = _table(parquet, raw, file)
            path = find_column(arrow, table.schema_arrow, column, file, whole)
            found = tuple(paths_of_names(names, partial(_find_name, arrow, table.schema_arrow)))
            yield OpenTable(file=file, arrow=arrow, table=table, column=column, path=path, whole=whole, names=found)
    except ExpansionError as error:
        raise DataError(f"{file}: {error}.") from error
    except arrow.ArrowMemoryError as error:
        raise MemoryError(str(error)) from error
    except (arrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise DataError(_damaged(file, error)) from error


def read_table(opened: OpenTable, skip_rows: int, num_rows: int, total_bytes: int) -> Iterator[Row]:
    """Yield the rows of an open file behind the first `skip_rows`, reading `num_rows` at once.

    Raises:
        ExpansionError: It stands for far more bytes than it has.
    """
    metadata, path = opened.table.metadata, opened.path
    group, number = _first_group(metadata, skip_rows)
    groups = list(range(group, metadata.num_row_groups))
    # A name with dots is a path for the library: it would read the nested column of that path.
    is_all = opened.whole or (len(path) == 1 and "." in opened.column)
    plain_bytes = ROW_BYTES * number
    columns = None if is_all else [opened.column, *map(".".join, opened.names)]
    for batch in opened.table.iter_batches(num_rows, row_groups=groups, columns=columns):
        rows = _rows(batch, path) if opened.whole else repeat({})
        names = _names_in(opened, batch)
        for value, row, name in zip(_as_bytes(opened.arrow, _values(batch, path)), rows, names, strict=False):
            number += 1
            plain_bytes += ROW_BYTES + len(value or b"")
            check_expansion(plain_bytes, total_bytes)
            if number > skip_rows:
                yield Row(number, value, total_bytes * number // max(1, metadata.num_rows), row, name)


def _names_in(opened: OpenTable, batch: Any) -> Iterable[str]:  # noqa: ANN401
    """Return the id or URL of each row: what the first of the columns has that has any."""
    if not opened.names:
        return repeat("")
    columns = [_values(batch, path) for path in opened.names]
    is_text = [not opened.arrow.types.is_integer(column.type) for column in columns]
    values = [
        _as_bytes(opened.arrow, column) if text else column.to_pylist()
        for column, text in zip(columns, is_text, strict=True)
    ]
    return (next(filter(None, map(as_name, row)), "") for row in zip(*values, strict=True))


def _find_name(arrow: Any, schema: Any, column: str) -> tuple[str, ...] | None:  # noqa: ANN401
    """Return the way to a column of ids or URLs; None if there is none, two, or one of another type."""
    path = key_path([schema], column, partial(_field, arrow))
    # A name with dots is a path for the library.
    if path is None or any("." in name for name in path) or _doubled(arrow, schema, path, is_anywhere=False):
        return None
    kind = [schema]
    for name in path:
        kind = _field(arrow, kind, name) or kind
    return path if _is_text(arrow, kind[0]) or arrow.types.is_integer(kind[0]) else None


def count_rows(file: InputFile, column: str) -> int:
    """Return the number of rows that the file's footer states. The file is read in a limited child first.

    Raises:
        DataError: The file is damaged, or takes too much to read, or has no column of text of that name.
        UsageError: The package pyarrow is not installed.
    """
    from data_prep.text.parquet_probe import rows_at_once

    _libraries(file)
    rows_at_once(file, column, whole=False)
    with open_table(file, column, whole=False) as opened:
        return int(opened.table.metadata.num_rows)


def _table(parquet: Any, raw: Any, file: InputFile) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return the reader of a file. A list in its footer can have no more entries than the file has bytes."""
    most = max(1, min(file_bytes(file), MOST_ENTRIES))
    return parquet.ParquetFile(
        raw, buffer_size=BUFFER_BYTES, thrift_container_size_limit=most, thrift_string_size_limit=MOST_FOOTER_BYTES
    )


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
