"""The id or the URL of a record: under a key that is named, or else the first of the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from data_prep.text.text_key import path_in, value_at
from harness.channels.provenance import MOST_NAME_BYTES

NameKeys: TypeAlias = "str | bool"
"""A key, spelt as `--text-key` is; True for the usual ones, False for none."""
NO_NAMES: NameKeys = False
_INSIDE = ("metadata", "meta")
_URLS = ("url", "source_url", "WARC-Target-URI", "warc-target-uri", "warc_target_uri")
_HEADERS = ("warc_headers", "headers")
_IDS = ("id", "WARC-Record-ID", "warc-record-id", "warc_record_id", "doc_id", "uuid")


def name_keys(key: str | None) -> NameKeys:
    """Return the keys to look under: the one that is named, or the usual ones."""
    return True if key is None else key


def name_in(record: Mapping[str, Any], keys: NameKeys) -> str:
    """Return the id or URL of a record, a text or a whole number; empty if it has none under these keys.

    Of the usual ones a URL anywhere goes before an id: it says more.
    """
    if isinstance(keys, str):
        path = path_in(record, keys)
        return as_name(value_at(record, path)) if path else ""
    if not keys:
        return ""
    for names in (_URLS, _IDS):
        for place in _objects_in(record):
            for name in names:
                if (value := place.get(name)) is not None and (found := as_name(value)):
                    return found
    return ""


def paths_of_names(keys: NameKeys, find: Callable[[str], tuple[str, ...] | None]) -> list[tuple[str, ...]]:
    """Return the way to the first URL, and to the first id, that a table has, or to the key that is named.

    `find` returns the way to a column (or a field of a struct) by its name with dots; None if there is none.
    """
    if isinstance(keys, str):
        return [path for path in (find(keys),) if path]
    outer = [(name,) for name in _INSIDE]
    places = [(), *outer, *((*place, name) for place in ((), *outer) for name in _HEADERS)]
    usual = ([(*place, name) for place in places for name in names] for names in (_URLS, _IDS) if keys)
    found = (next((path for path in paths if find(".".join(path)) == path), None) for paths in usual)
    return [path for path in found if path]


def _objects_in(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the record and the objects in it that may hold its id."""
    places = [record]
    inner = [value for name in _INSIDE if isinstance(value := record.get(name), dict)]
    places += inner
    for outer in (record, *inner):
        places += [value for name in _HEADERS if isinstance(value := outer.get(name), dict)]
    return places


def as_name(value: object) -> str:
    """Return a text (also as bytes) or a whole number as the name of a record; empty for anything else."""
    if isinstance(value, bytes):
        value = value[: 4 * MOST_NAME_BYTES].decode("utf-8", "replace")
    if isinstance(value, str):
        return value[:MOST_NAME_BYTES]  # more is cut anyway, and thousands are held at once
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else ""
