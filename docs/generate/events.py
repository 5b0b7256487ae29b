"""The page of the events: every kind of line in a file of events, from the union of its Pydantic models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter

from docs.generate.docstrings import sentence_of
from docs.generate.kinds import Schema, default_of, kind_of, section_of, unit_of

_KIND = "kind"


def events_page(union: Any, head: str, shared: Sequence[type[BaseModel]] = ()) -> str:  # noqa: ANN401 (no class)
    """Return the page: the fields that events share, then one heading for each kind with its own fields.

    Args:
        union: The union. Each of its models has a literal `kind` and a docstring, and so has each of its other fields.
        head: Title and first words of the page.
        shared: Bases of the models, whose fields are explained once.
    """
    schema = TypeAdapter(union).json_schema()
    models = schema.get("$defs") or {str(schema["title"]): schema}
    events = {_kinds_of(model): (name, model) for name, model in models.items() if _KIND in model["properties"]}
    common = {name: line for base in shared for name, line in _fields(base.__name__, base.model_json_schema(), {}, ())}
    parts = [head]
    if common:
        parts.append("## Fields that events share\n\n" + "\n".join(common.values()) + "\n")
    for kinds in sorted(events):
        name, model = events[kinds]
        lines = [line for _, line in _fields(name, model, models, common)]
        lacks = ", ".join(f"`{field}`" for field in common if field not in model["properties"])
        text = [sentence_of(name, model) + (f" It has no {lacks}." if lacks else ""), "\n".join(lines)]
        parts.append(f"## {', '.join(f'`{kind}`' for kind in kinds)}\n\n" + "\n\n".join(filter(None, text)) + "\n")
    return "\n".join(parts)


def _kinds_of(model: Schema) -> tuple[str, ...]:
    """Return the kinds that a model stands for: mostly one."""
    kind = model["properties"][_KIND]
    return tuple(kind["enum"]) if "enum" in kind else (str(kind["const"]),)


def _fields(name: str, model: Schema, models: Schema, left_out: Iterable[str]) -> list[tuple[str, str]]:
    """Return name and line of each field but `kind`, which the heading names, and those that are left out."""
    return [
        (field, _line(f"{name}.{field}", value, field in model.get("required", ()), models))
        for field, value in model["properties"].items()
        if field != _KIND and field not in left_out
    ]


def _line(name: str, value: Schema, is_required: bool, models: Schema) -> str:
    """Return the line of a field, with a line below it for each field of a section."""
    field = name.rpartition(".")[2]
    facts = [kind_of(value), default_of(value, is_required)]
    if (unit := unit_of(field)) is not None:
        facts.append(f"in {unit}")
    line = f"- **`{field}`**: {'; '.join(facts)}. {sentence_of(name, value)}"
    inner = section_of(value)
    if inner is None:
        return line
    return "\n".join([line, *(f"  {below}" for _, below in _fields(inner, models[inner], models, ()))])
