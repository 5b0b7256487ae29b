"""The docstrings that the pages are made of, checked: a name without one stops the generator."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from enum import StrEnum
from types import ModuleType
from typing import Any


class UndocumentedError(Exception):
    """A public name has no docstring."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has no docstring; write one where it is defined, the page is made of it")


def sentence_of(name: str, schema: Mapping[str, Any]) -> str:
    """Return the description in a JSON Schema as one paragraph.

    Raises:
        UndocumentedError: There is none.
    """
    if not schema.get("description"):
        raise UndocumentedError(name)
    return joined(schema["description"])


def joined(text: str) -> str:
    """Return a docstring as one line."""
    return " ".join(text.split())


def constants_of(module: ModuleType) -> dict[str, str]:
    """Return the docstring under each public constant of a module, by name, in the order of the source.

    Raises:
        UndocumentedError: A constant has none.
    """
    body = ast.parse(inspect.getsource(module)).body
    found: dict[str, str] = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name = statement.targets[0].id
        if name.startswith("_"):
            continue
        match following:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = joined(text)
            case _:
                raise UndocumentedError(f"{module.__name__}.{name}")
    return found


def members_of(enumeration: type[StrEnum]) -> dict[str, str]:
    """Return the docstring under each member of an enumeration, by its value, in the order of the source.

    Raises:
        UndocumentedError: A member has none.
    """
    (definition,) = ast.parse(inspect.getsource(enumeration)).body
    assert isinstance(definition, ast.ClassDef), "an enumeration is a class"
    found: dict[str, str] = {}
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            match following:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    found[enumeration[name].value] = joined(text)
                case _:
                    raise UndocumentedError(f"{enumeration.__qualname__}.{name}")
    return found


def summary_of(documented: type | Any) -> str:  # noqa: ANN401 (a class or a function)
    """Return the docstring of a class or function as one line.

    Raises:
        UndocumentedError: There is none of its own.
    """
    if not documented.__doc__:
        raise UndocumentedError(f"{documented.__module__}.{documented.__qualname__}")
    return joined(documented.__doc__)
