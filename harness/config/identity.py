"""The identity of a section: what a checkpoint writes down of it, so that the next run can be held against it.

A field at its default is left out, and an absent field means the default. An option that is added later is therefore
absent from all checkpoints of before, which means that they had none of it. Two things follow: the default of a new
field must be what happened before there was the field, and the default of a field that is part of an identity never
changes (`tests/config/test_section_identity.py` holds a table of them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic_core import to_jsonable_python

from harness.config.section import Section


def identity_of(section: Section) -> dict[str, Any]:
    """Return the fields of a section that are required or not at their default, as plain JSON values."""
    return section.model_dump(mode="json", exclude_defaults=True)


def filled_in(identity: Mapping[str, object], schema: type[Section]) -> dict[str, object]:
    """Return an identity with the default of every field that it leaves out, in the order of the schema.

    Required fields that are missing stay missing, and fields that the schema does not know stay at the end.
    """
    whole: dict[str, object] = {}
    for name, field in schema.model_fields.items():
        if name in identity:
            value, inner = identity[name], _section_in(field.annotation)
            whole[name] = filled_in(value, inner) if isinstance(value, Mapping) and inner is not None else value
        elif not field.is_required():
            whole[name] = to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))
    return whole | {name: value for name, value in identity.items() if name not in whole}


def _section_in(annotation: object) -> type[Section] | None:
    """Return the section that a field holds, `RopeScalingConfig` of `RopeScalingConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for each in get_args(annotation) if (found := _section_in(each)) is not None), None)
