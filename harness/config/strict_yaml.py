"""Reads YAML text into plain values with the origin of each, and refuses what readers understand differently.

Refused: two equal keys, anchors, aliases, merge keys, tags, directives, a second document, control characters,
nesting deeper than 32, more than 10,000 values, more than 1 MiB, and the numbers that `harness.config.scalars` refuses.
Keys are always text. Events are read one at a time, so that reading a hostile file stops at its first forbidden event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from harness.config.problems import Location, Origin, Origins, Problem, shortened
from harness.config.scalars import NOT_FILLED_IN, PLACEHOLDER, Scalar, Unreadable, read_plain
from harness.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 10_000

Value = Scalar | Unreadable | list["Value"] | dict[str, "Value"]

_FORBIDDEN_CHARACTER = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Document:
    """Values with the origin of each, and what is wrong with them so far."""

    value: Value = None
    origins: Origins = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def parse_file_text(text: str, source: str) -> Document:
    """Read the text of a file. Raises `ConfigError` where it is not YAML; other problems are in the document."""
    return _parse(text, lambda line, column: Origin(source, line, column))


def parse_override_text(text: str, source: str) -> Document:
    """Read the value of an override; `source` names the override in every message."""
    return _parse(text, lambda line, column: Origin(source))


def _parse(text: str, origin_at: Callable[[int, int], Origin]) -> Document:
    if bad := _FORBIDDEN_CHARACTER.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        raise ConfigError([f"{origin_at(line, column)}: {_forbidden_text(bad[0])}; remove it"])
    builder = _Builder(yaml.parse(text, Loader=_Loader), origin_at)
    try:
        builder.read_stream()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_text(error, text, origin_at)]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{origin_at(1, 1)}: not valid YAML: {error}"]) from None
    return builder.document


class _Builder:
    """Builds a document from parser events; recursion is bounded by `MAX_DEPTH`."""

    def __init__(self, events: Iterator[Any], origin_at: Callable[[int, int], Origin]) -> None:
        self._events = events
        self._origin_at = origin_at
        self.document = Document(origins={(): origin_at(1, 1)})

    def read_stream(self) -> None:
        """Read all events: one document at most."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if event.version or event.tags:
                    self._refuse(event, "directives (%) are not allowed; remove the line")
                first = next(self._events)
                self.document.origins[()] = self._origin(first)
                self.document.value = self._node(first, ())
                next(self._events)
                break
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._refuse(event, "a second document starts here; only one is allowed")

    def _node(self, event: Any, location: Location) -> Value:  # noqa: ANN401
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._refuse(event, "anchors (&) and aliases (*) are not allowed; write the value out")
        if event.tag is not None:
            self._refuse(event, f"the tag {shortened(event.tag)} is not allowed; remove it")
        if len(self.document.origins) > MAX_VALUES:
            self._refuse(event, f"more than {MAX_VALUES} values; this is not a configuration")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, location)
        if len(location) >= MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        return self._mapping(location) if isinstance(event, yaml.MappingStartEvent) else self._sequence(location)

    def _scalar(self, event: yaml.ScalarEvent, location: Location) -> Value:
        value = read_plain(event.value) if event.implicit[0] else self._text(event)
        if value == PLACEHOLDER:  # in quotes, too
            value = NOT_FILLED_IN
        if isinstance(value, Unreadable):
            self.document.problems.append(Problem(location, value.reason, self._origin(event)))
        return value

    def _sequence(self, location: Location) -> list[Value]:
        items: list[Value] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*location, len(items))
            self.document.origins[here] = self._origin(event)
            items.append(self._node(event, here))
        return items

    def _mapping(self, location: Location) -> dict[str, Value]:
        entries: dict[str, Value] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            here, origin = (*location, key), self._origin(event)
            if key in entries:
                text = f"given twice; the first is at {self.document.origins[here]}; remove one"
                self.document.problems.append(Problem(here, text, origin))
            else:
                self.document.origins[here] = origin
            entries[key] = self._node(next(self._events), here)
        return entries

    def _key(self, event: Any) -> str:  # noqa: ANN401
        if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
            self._refuse(event, "a key must be a plain word")
        if not event.value:
            self._refuse(event, "a key is empty; write a name before the ':'")
        if event.value == "<<" and event.implicit[0]:
            self._refuse(event, "merge keys (<<) are not allowed; write the values out")
        return self._text(event)

    def _text(self, event: yaml.ScalarEvent) -> str:
        text: str = event.value
        if bad := _FORBIDDEN_CHARACTER.search(text):
            self._refuse(event, f"{_forbidden_text(bad[0])} here; remove it")
        return text

    def _origin(self, event: Any) -> Origin:  # noqa: ANN401
        return self._origin_at(event.start_mark.line + 1, event.start_mark.column + 1)

    def _refuse(self, event: Any, text: str) -> NoReturn:  # noqa: ANN401
        raise ConfigError([f"{self._origin(event)}: {text}"])


def _forbidden_text(character: str) -> str:
    return f"the character U+{ord(character):04X} is not allowed"


def _syntax_text(error: yaml.MarkedYAMLError, text: str, origin_at: Callable[[int, int], Origin]) -> str:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    lines = text.split("\n")
    written = lines[line - 1] if line <= len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return f"{origin_at(line, column)}: a tab is used for indentation; YAML allows only spaces"
    origin, context = origin_at(line, column), error.context
    if context and error.context_mark and error.context_mark.line < line - 1 and origin.line:
        context += f" that starts in line {error.context_mark.line + 1}"
    return f"{origin}: not valid YAML: {', '.join(part for part in (context, error.problem) if part)}"
