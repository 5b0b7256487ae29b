"""The page of the events: every kind of line in a file of events, from the union of its Pydantic models."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from docs.generate.docstrings import sentence_of
from docs.generate.kinds import Schema, default_of, kind_of, section_of, unit_of

_KIND = "kind"


def events_page(union: Any, head: str) -> str:  # noqa: ANN401 (a union of models is no class)
    """Return the page: one heading for each kind of event, with its fields.

    Args:
        union: The union. Each of its models has a literal `kind` and a docstring, and so has each of its other fields.
        head: Title and first words of the page.
    """
    schema = TypeAdapter(union).json_schema()
    models = schema.get("$defs") or {str(schema["title"]): schema}
    events = {_kind_of(model): (name, model) for name, model in models.items() if _KIND in model["properties"]}
    parts = [head]
    for kind in sorted(events):
        name, model = events[kind]
        lines = [_line(name, field, value, model, models) for field, value in model["properties"].items()]
        parts.append(f"## `{kind}`\n\n{sentence_of(name, model)}\n\n" + "\n".join(filter(None, lines)) + "\n")
    return "\n".join(parts)


def _kind_of(model: Schema) -> str:
    return str(model["properties"][_KIND]["const"])


def _line(name: str, field: str, value: Schema, model: Schema, models: Schema) -> str:
    """Return the line of one field; empty for the field `kind`, which the heading names."""
    if field == _KIND:
        return ""
    facts = [kind_of(value), default_of(value, field in model.get("required", ()))]
    if (unit := unit_of(field)) is not None:
        facts.append(f"in {unit}")
    line = f"- **`{field}`**: {'; '.join(facts)}. {sentence_of(f'{name}.{field}', value)}"
    inner = section_of(value)
    if inner is None:
        return line
    fields = models[inner]["properties"].items()
    return "\n".join([line, *(f"  {_line(inner, own, each, models[inner], models)}" for own, each in fields)])
