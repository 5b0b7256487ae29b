"""Changes of a tree of JSON or YAML by the path of a value, with spellings that no writer would write."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from absurd import Raw, draw_key, draw_value, encoded, plain

Change = dict[str, Any]
Path = list[Any]
LOST_PLACE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)
"""What comes of a change of something that an earlier change has taken away."""
_MARK = "mark-of-the-fuzzer-"


def draw_json(choose: random.Random, content: bytes) -> Change:
    return _draw(choose, _parsed_json(content), is_yaml=False)


def apply_json(content: bytes, changes: Sequence[Change]) -> bytes:
    if not changes:
        return content
    tree, marks = _changed(_parsed_json(content), changes)
    text = json.dumps(tree, ensure_ascii=False)
    return _spelt(text.encode("utf-8", "surrogatepass"), marks, '"')


def draw_yaml(choose: random.Random, content: bytes) -> Change:
    return _draw(choose, yaml.safe_load(content), is_yaml=True)


def apply_yaml(content: bytes, changes: Sequence[Change]) -> bytes:
    if not changes:
        return content
    tree, marks = _changed(yaml.safe_load(content), changes)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10_000)
    return _spelt(text.encode("utf-8", "surrogatepass"), marks, "")


def _parsed_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # a line that a process was killed in
        return {}


def _draw(choose: random.Random, tree: Any, *, is_yaml: bool) -> Change:
    paths = list(paths_of(tree))
    path = choose.choice(paths)
    inside = [path for path in paths if path]
    kind = choose.choice(["set"] * 6 + ["drop", "key", "double", "add", "copy"]) if inside else "set"
    if kind == "set":
        return {"kind": kind, "at": path, "raw": draw_value(choose, _value(tree, path), is_yaml=is_yaml)}
    path = choose.choice(inside)
    change: Change = {"kind": kind, "at": path}
    if kind == "key":
        change["raw"] = draw_key(choose)
    elif kind == "add":
        change |= {"key": draw_key(choose), "raw": draw_value(choose, is_yaml=is_yaml)}
    elif kind == "double":
        change["raw"] = draw_value(choose, _value(tree, path), is_yaml=is_yaml)
    elif kind == "copy":
        change["from"] = choose.choice(inside)
    return change


def paths_of(tree: Any, path: Path | None = None) -> Iterator[Path]:
    """Every value of a tree; of long lists a few only."""
    path = path or []
    yield path
    if isinstance(tree, dict):
        for key in list(tree)[:400]:
            yield from paths_of(tree[key], [*path, key])
    elif isinstance(tree, list):
        for number in sorted({*range(min(len(tree), 6)), len(tree) - 1} if tree else ()):
            yield from paths_of(tree[number], [*path, number])


def _value(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


class _Marks:
    """Spellings by the mark that stands for them until the tree is text."""

    def __init__(self) -> None:
        self.raws: list[Raw] = []

    def mark(self, raw: Raw) -> str:
        self.raws.append(raw)
        return f"{_MARK}{len(self.raws) - 1}-"


def _changed(tree: Any, changes: Sequence[Change]) -> tuple[Any, _Marks]:
    """A tree with marks; a change whose place is no longer there is passed over."""
    marks = _Marks()
    for change in changes:
        path = change["at"]
        if not path:
            tree = marks.mark(change["raw"])
            continue
        try:
            holder = _value(tree, path[:-1])
            if isinstance(holder, str):
                continue
            _change_inside(tree, holder, path[-1], change, marks)
        except LOST_PLACE:
            continue
    return tree, marks


def _change_inside(tree: Any, holder: Any, key: Any, change: Change, marks: _Marks) -> None:
    kind = change["kind"]
    if kind == "set":
        _ = holder[key]
        holder[key] = marks.mark(change["raw"])
    elif kind == "drop":
        del holder[key]
    elif kind == "copy":
        holder[key] = copy.deepcopy(_value(tree, change["from"]))
    elif isinstance(holder, list):
        holder.insert(int(key), marks.mark(change["raw"]))
    elif kind == "key":
        holder[marks.mark(change["raw"])] = holder.pop(key)
    elif kind == "add":
        holder[marks.mark(change["key"])] = marks.mark(change["raw"])
    elif kind == "double":
        holder[marks.mark(plain(json.dumps(key)))] = marks.mark(change["raw"])


def _spelt(text: bytes, marks: _Marks, quote: str) -> bytes:
    for number, raw in enumerate(marks.raws):
        mark = f"{quote}{_MARK}{number}-{quote}".encode()
        text = text.replace(mark, encoded(raw))
    return text
