"""A message about a package that is missing names an extra that brings it."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_MESSAGE = re.compile(r"Python package (\w+).*?`([\w-]+)`\s+extra", re.DOTALL)


def messages() -> list[tuple[str, str, str]]:
    """(file, package, extra) of every message whose package and extra are written out in it."""
    found = []
    for folder in ("harness", "data_prep", "checkpoint_tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found += [(path.name, *match.groups()) for match in _MESSAGE.finditer(node.value)]
    return found


def test_there_are_such_messages() -> None:
    assert {package for _, package, _ in messages()} >= {"pyarrow", "rensa"}


@pytest.mark.parametrize(("file", "package", "extra"), messages())
def test_the_extra_brings_the_package(file: str, package: str, extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert package in {re.split(r"[<>=\[; ]", requirement)[0] for requirement in extras[extra]}, file
