"""The page of the configuration: every key of the YAML, from the JSON Schema of its Pydantic models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from docs.generate.docstrings import sentence_of
from docs.generate.kinds import Schema, default_of, kind_of, section_of, unit_of

_HEAD = """\
# Configuration

One YAML file describes one run. This page lists its keys.

- An unknown key is an error, and so is a value of another type: text is not a number.
- *optional* means that the key may be left out; the text says what holds then.
- `phases[]` is one entry of a list, `data.channels.NAME` one entry of a mapping whose names you choose.
- Complete examples: `model_configs/`. The same as JSON Schema, for editors: `harness schema`.
- `--set KEY=VALUE` overrides one value on the command line: `--set phases.0.seq_length=64`.
- `FILL_IN` stands for a value that is still to be written: it is refused, with its key, until there is one.
"""


def configuration_page(model: type[BaseModel]) -> str:
    """Return the page: a heading for each section, in the order of the YAML, and a line for each key."""
    schema = model.model_json_schema()
    sections: dict[str, Schema] = schema["$defs"]
    places = _places(schema, sections)
    parts = [_HEAD]
    for name, found in places.items():
        section = sections[name]
        parts.append(f"## {', '.join(f'`{place}`' for place in found)}\n\n{sentence_of(name, section)}\n")
        parts.append(_keys(section, sections, places, found[0]))
    return "\n".join(parts)


def _places(schema: Schema, sections: Mapping[str, Schema]) -> dict[str, list[str]]:
    """Return where each section stands in the YAML, by its name in the schema, in the order of the YAML."""
    places: dict[str, list[str]] = {}
    for name, place in _sections_under(schema, sections, ""):
        places.setdefault(name, []).append(place)
    return places


def _sections_under(schema: Schema, sections: Mapping[str, Schema], above: str) -> Iterator[tuple[str, str]]:
    for key, value in schema["properties"].items():
        if (name := section_of(value)) is not None:
            place = f"{above}{key}{_entry(value)}"
            yield name, place
            yield from _sections_under(sections[name], sections, f"{place}.")


def _entry(schema: Schema) -> str:
    """Return what follows the key of a list or of a mapping where one entry is meant."""
    if schema.get("type") == "array":
        return "[]"
    return ".NAME" if "patternProperties" in schema else ""


def _keys(section: Schema, sections: Mapping[str, Schema], places: Mapping[str, list[str]], above: str) -> str:
    lines = []
    for key, value in section["properties"].items():
        facts = [kind_of(value), default_of(value, key in section.get("required", ())), *_unit(key, value)]
        if (inner := section_of(value)) is not None:
            facts.append(f"see [`{places[inner][0]}`](#{_anchor(places[inner])})")
        lines.append(f"- **`{key}`**: {'; '.join(facts)}.\n  {sentence_of(f'{above}.{key}', value)}\n")
    return "\n".join(lines)


def _unit(key: str, schema: Schema) -> list[str]:
    """Return the unit of a number by its name; text and switches have none."""
    options: list[dict[str, Any]] = [dict(schema), *schema.get("anyOf", ())]
    is_number = any(option.get("type") in ("integer", "number") for option in options)
    unit = unit_of(key) if is_number else None
    return [f"in {unit}"] if unit else []


def _anchor(places: list[str]) -> str:
    """Return the anchor that GitHub gives to the heading of a section."""
    heading = ", ".join(places).lower()
    return "".join(letter for letter in heading.replace(" ", "-") if letter.isalnum() or letter in "-_")
