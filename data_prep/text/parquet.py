"""Reads the rows of one text column of a Parquet file, a few thousand at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any, NamedTuple

from data_prep.text.input_file import InputFile, file_bytes, open_bytes
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
    others: Mapping[str, Any]
    """The other columns, if they were asked for."""


def read_rows(file: InputFile, column: str, skip_rows: int = 0, whole: bool = False) -> Iterator[Row]:
    """Yield the rows of a column of text, from row `skip_rows` (0-based) on; row groups before it are not read.

    With `whole` the other columns are read too, which takes longer.

    Raises:
        DataError: The file is damaged, or has no column of text of that name.
        UsageError: The package pyarrow is not installed.
    """
    arrow, parquet = _libraries(file)
    total_bytes = file_bytes(file)
    try:
        with open_bytes(file) as raw:
            table = parquet.ParquetFile(raw)
            _check_column(arrow, table.schema_arrow, column, file)
            num_rows = table.metadata.num_rows
            group, number = _first_group(table.metadata, skip_rows)
            groups = list(range(group, table.metadata.num_row_groups))
            columns = None if whole else [column]
            for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=columns):
                others = batch.drop_columns([column]).to_pylist() if batch.num_columns > 1 else repeat({})
                for value, rest in zip(_as_bytes(arrow, batch.column(column)), others, strict=False):
                    number += 1
                    if number > skip_rows:
                        yield Row(number, value, total_bytes * number // num_rows, rest)
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


def _check_column(arrow: Any, schema: Any, column: str, file: InputFile) -> None:  # noqa: ANN401 - pyarrow has no types
    if column not in schema.names:
        raise DataError(
            f"{file}: there is no column {column!r}; its columns are {', '.join(schema.names)}. "
            "Name the one that holds the text with --text-key."
        )
    kind = schema.field(column).type
    values = kind.value_type if arrow.types.is_dictionary(kind) else kind
    kinds = arrow.types
    if not any(f(values) for f in (kinds.is_string, kinds.is_large_string, kinds.is_binary, kinds.is_large_binary)):
        raise DataError(
            f"{file}: column {column!r} holds {kind}, not text. Name the one that holds the text with --text-key."
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


def _as_bytes(arrow: Any, values: Any) -> list[bytes | None]:  # noqa: ANN401
    """Return the values as bytes: pyarrow would refuse a whole batch for one row that is not UTF-8."""
    if arrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    large = arrow.types.is_large_string(values.type) or arrow.types.is_large_binary(values.type)
    result: list[bytes | None] = values.cast(arrow.large_binary() if large else arrow.binary()).to_pylist()
    return result
