"""Explains Pydantic's findings about a configuration in words: the given value, the allowed ones, and the remedy."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from harness.config.operation import SBATCH_FLAG, SLURM_TIME
from harness.config.problems import Location, Problem, closest, did_you_mean, dotted, shortened
from harness.config.scalars import Unreadable, read_plain
from harness.config.schema import Config
from harness.config.secrets import HIDDEN, is_secret
from harness.config.section import NAME, WORD
from harness.limits import LEAST_FLOAT

_KEY_MARK = "[key]"
_NAME_RULE = "letters, digits, '_', '-' and '.', starting with a letter or digit"

_REMEDIES: dict[Location, str] = {
    ("launch", "gpus_per_node"): "; a kind of GPU goes into launch.sbatch_flags, such as [--gpus-per-node=a100:8]",
}
"""Advice by the place of a text that should be a number."""
_REMEDIES_OF_MANY: Mapping[str | int, str] = {
    "seq_length": "; samples of a phase have one length: give each length a phase (docs/long_context.md shows how)",
}
"""Advice by the key of a list, or a section, that should be a number."""

_WANTED = {
    "bool_type": "must be true or false",
    "dict_type": "must be a section of keys and values",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "model_type": "must be a section of keys and values",
    "path_type": "must be a path",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entry",
}
_WANTED_BY_PATTERN = {
    NAME: f"must be a name of {_NAME_RULE}",
    WORD: "must be printable text without spaces that does not begin with '-'",
    SLURM_TIME: "must be a time as Slurm spells it: minutes, hours:minutes:seconds or days-hours:minutes:seconds",
    SBATCH_FLAG: "must be one long option in one piece, such as --qos=high",
}
"""The meaning of a pattern that a text must match."""


def explain(error: ErrorDetails) -> Problem | None:
    """Describe a problem in the user's words; None for one that another problem already explains."""
    location: Location = tuple(part for part in error["loc"] if part != _KEY_MARK)
    given = error["input"]
    if isinstance(given, Unreadable):
        return None
    if error["type"] == "too_short" and given:
        return None  # pydantic counts only the right entries; the wrong ones have problems of their own
    if error["type"] == "missing":
        return Problem(location, _missing_text(location))
    if error["type"] == "extra_forbidden":
        return Problem(location, _unknown_key_text(location))
    if is_secret(location):
        given = HIDDEN
    return Problem(location, f"{_wanted_text(error)}, given {_shown(given)}{_hint(error, given)}")


def _wanted_text(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return _WANTED_BY_PATTERN[context["pattern"]]
    if error["type"] == "greater_than_equal" and context["ge"] == LEAST_FLOAT and error["input"] <= 0:
        return "must be greater than 0.0"
    return _WANTED.get(error["type"], error["msg"]).format(**context)


def _missing_text(location: Location) -> str:
    parent, section = _section_at(location[:-1]), _section_at(location)
    meaning = section.__doc__ if section else None
    if parent and not meaning:
        meaning = parent.model_fields[str(location[-1])].description
    return f"is missing: {meaning.split('. ')[0].rstrip('.')}" if meaning else "is missing"


def _unknown_key_text(location: Location) -> str:
    """Suggest, in this order: the same key elsewhere, a similar key here, a similar key elsewhere; else all keys."""
    key = str(location[-1])
    section = _section_at(location[:-1])
    here = tuple(section.model_fields) if section else ()
    places = _places_of_keys()
    if key in places:
        return f"unknown key; did you mean {' or '.join(places[key])}?"
    if similar := closest(key, here):
        return f"unknown key; did you mean '{similar}'?"
    if similar := closest(key, places):
        return f"unknown key; did you mean {' or '.join(places[similar])}?"
    return f"unknown key; allowed: {', '.join(here)}"


def _hint(error: ErrorDetails, given: object) -> str:
    """Return advice on how to mend the value, as an addition to the error; empty if no advice is known."""
    kind = error["type"]
    if kind == "int_type" and isinstance(given, list | Mapping):
        return _REMEDIES_OF_MANY.get(error["loc"][-1], "")
    if kind == "int_type" and isinstance(given, float) and given.is_integer() and abs(given) < 2**63:
        return f"; write {int(given)}"
    if kind in ("int_type", "float_type", "bool_type") and isinstance(given, str):
        value = read_plain(given)
        wanted = {"int_type": int, "float_type": int | float, "bool_type": bool}[kind]
        return "; remove the quotes" if isinstance(value, wanted) else _REMEDIES.get(error["loc"][:2], "")
    if kind in ("string_type", "path_type") and isinstance(given, bool | int | float):
        return "; put it in quotes"
    if kind in ("model_type", "dict_type") and given is None:
        return "; give its keys, or remove it"
    if kind == "literal_error" and isinstance(given, str):
        return did_you_mean(given, error.get("ctx", {}).get("expected", "").split("'")[1::2])
    return ""


def _shown(value: object) -> str:
    """Return a given value as it would be written in YAML, with its kind if the kind is the problem."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text '{shortened(value)}'"
    if isinstance(value, Mapping):
        return "a section" if value else "an empty section"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return str(value)


def _section_at(location: Location) -> type[BaseModel] | None:
    """Return the section of the schema at a location, or None."""
    kind: Any = Config
    for part in location:
        kind = _entry_kind(kind, part)
    return kind if _is_section(kind) else None


def _entry_kind(kind: Any, part: str | int) -> Any:  # noqa: ANN401 (type annotations have no type)
    """Return the type of the value under a key of a section, of a mapping, or in a list."""
    if _is_section(kind):
        field = kind.model_fields.get(part)
        return _without_none(field.annotation) if field else None
    if get_origin(kind) in (dict, tuple):
        return get_args(kind)[1 if get_origin(kind) is dict else 0]
    return None


def _without_none(kind: Any) -> Any:  # noqa: ANN401 (type annotations have no type)
    if get_origin(kind) in (Union, types.UnionType):
        return next(option for option in get_args(kind) if option is not types.NoneType)
    return kind


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


@cache
def _places_of_keys() -> dict[str, list[str]]:
    """Return every key of the schema, with the dotted places at which it is allowed.

    A key of the run that a phase may repeat is looked for at the run: only its outermost places are named.
    """
    found: dict[str, list[Location]] = {}
    for location in _schema_locations(Config, ()):
        found.setdefault(str(location[-1]), []).append(location)
    return {
        key: [dotted(location) for location in locations if len(location) == min(map(len, locations))]
        for key, locations in found.items()
    }


def _schema_locations(kind: Any, location: Location) -> Iterator[Location]:  # noqa: ANN401
    if _is_section(kind):
        for name in kind.model_fields:
            yield (*location, name)
            yield from _schema_locations(_entry_kind(kind, name), (*location, name))
    elif get_origin(kind) is dict:
        yield from _schema_locations(get_args(kind)[1], (*location, "<name>"))
    elif get_origin(kind) is tuple:
        yield from _schema_locations(get_args(kind)[0], (*location, 0))
