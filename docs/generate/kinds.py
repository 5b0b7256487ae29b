"""JSON Schema in words: what kind of value a field takes, what is allowed, and its unit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_TYPES = {
    "integer": "integer",
    "number": "number",
    "boolean": "`true` or `false`",
    "string": "text",
    "object": "mapping",
}
_UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_bytes": "bytes",
    "_gib": "GiB",
    "_tokens": "tokens",
    "_samples": "samples",
    "_steps": "steps",
    "_pct": "percent",
    "_per_gpu": "per GPU",
}


def unit_of(name: str) -> str | None:
    """Return the unit that the suffix of a name says, None if the name has no such suffix."""
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), None)


def section_of(schema: Schema) -> str | None:
    """Return the name of the section that a value is, or that the values of a list or mapping are."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    inner = [*schema.get("anyOf", ()), *schema.get("patternProperties", {}).values()]
    if isinstance(schema.get("items"), Mapping):
        inner.append(schema["items"])
    return next(filter(None, map(section_of, inner)), None)


def kind_of(schema: Schema) -> str:
    """Describe the values that a schema allows, leaving out null: absence is said beside it."""
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if options:
        return " or ".join(map(kind_of, options))
    if "$ref" in schema:
        return "section"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return _list(schema)
    if values := schema.get("patternProperties"):
        return "mapping of names to " + " or ".join(_plural(kind_of(value)) for value in values.values())
    if schema.get("format") == "path":
        return "path"
    return _TYPES[schema["type"]] + _limits(schema) if "type" in schema else "any value"


def default_of(schema: Schema, is_required: bool) -> str:
    """Return `required`, `optional`, or the default as YAML writes it."""
    if is_required:
        return "required"
    default = schema.get("default")
    if default is None or default == "" or isinstance(default, Mapping):
        return "optional"
    return f"default `{json.dumps(default)}`" if not isinstance(default, str) else f"default `{default}`"


def _list(schema: Schema) -> str:
    if inner := schema.get("prefixItems"):
        kinds = list(dict.fromkeys(map(kind_of, inner)))
        return f"list of {len(inner)} " + (_plural(kinds[0]) if len(kinds) == 1 else f"values: {', '.join(kinds)}")
    length = f", at least {schema['minItems']}" if "minItems" in schema else ""
    return f"list of {_plural(kind_of(schema['items']))}{length}"


def _limits(schema: Schema) -> str:
    lowest = next(
        (f"{word} {_number(schema[key])}" for key, word in _LOWEST.items() if schema.get(key) is not None), None
    )
    highest = next(
        (f"{word} {_number(schema[key])}" for key, word in _HIGHEST.items() if schema.get(key) is not None), None
    )
    limits = " and ".join(filter(None, (lowest, highest)))
    if "maxLength" in schema:
        limits = f"at most {schema['maxLength']} characters"
    if schema.get("minLength"):
        limits = "not empty"
    if "pattern" in schema:
        limits = ", ".join(filter(None, (limits, f"matches `{schema['pattern']}`")))
    return f", {limits}" if limits else ""


_LOWEST = {"minimum": "at least", "exclusiveMinimum": "above"}
_HIGHEST = {"maximum": "at most", "exclusiveMaximum": "below"}


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _plural(kind: str) -> str:
    word, comma, rest = kind.partition(",")
    plurals = {"text": "texts", "path": "paths", "section": "sections", "integer": "integers", "number": "numbers"}
    plurals["mapping"] = "mappings"
    return plurals.get(word, word.replace("list of", "lists of", 1)) + comma + rest
