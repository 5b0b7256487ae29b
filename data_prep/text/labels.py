"""Labels of documents: what their records hold under a key."""

from __future__ import annotations

import json

from data_prep.text.read_documents import Record
from data_prep.text.text_key import path_in, value_at
from data_prep.text.whole_json import BYTE_ORDER_MARK
from harness.errors import DataError

NO_LABEL = ""
MOST_CHARACTERS = 1000


def value_under(line: bytes, key: str) -> object:
    """Return what a line of JSON holds under a key; None if it has no such key."""
    content = json.loads(line.removeprefix(BYTE_ORDER_MARK))  # noqa: TID251 (a record of the user, taken as it is)
    path = path_in(content, key)
    return value_at(content, path) if path else None


def label_of(record: Record, key: str) -> str:
    """Return the label of a document; `NO_LABEL` if it has none.

    Raises:
        DataError: It is neither text nor a number.
    """
    value = value_under(record.raw, key)
    if value is None:
        return NO_LABEL
    if not isinstance(value, str | int | float):
        raise DataError(
            f"{record.file}: line {record.line} has {value!r:.60} under {key!r}, and a label is text or a number. Name "
            "another key."
        )
    return str(value)[:MOST_CHARACTERS]
