"""The key under which a record holds something: `text`, or `meta.text` for an object within the object.

A key that is spelt with dots wins over a nested one, at every level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Node = TypeVar("Node")


def key_path(root: Node, key: str, child: Callable[[Node, str], Node | None]) -> tuple[str, ...] | None:
    """Return the names that lead from the root to a key; None if none do.

    `child` gives what a node holds under one name, None for nothing.
    """
    if child(root, key) is not None:
        return (key,)
    for end in (place for place, letter in enumerate(key) if letter == "."):
        inner = child(root, key[:end])
        rest = None if inner is None else key_path(inner, key[end + 1 :], child)
        if rest is not None:
            return (key[:end], *rest)
    return None


def path_in(record: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """Return the names that lead to a key in a JSON object; None if it has no such key."""
    return (key,) if key in record else key_path([record], key, _boxed)


def value_at(record: Mapping[str, Any], path: tuple[str, ...]) -> object:
    """Return what an object holds at the end of a path that `path_in` has found."""
    value: Any = record
    for name in path:
        value = value[name]
    return value


def with_value(record: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    """Return a copy of the object that holds another value at the end of a path."""
    name, *rest = path
    return {**record, name: with_value(record[name], tuple(rest), value) if rest else value}


def _boxed(node: list[Any], name: str) -> list[Any] | None:
    # In a box null is something that is there.
    return [node[0][name]] if isinstance(node[0], dict) and name in node[0] else None
