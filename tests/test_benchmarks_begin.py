"""Benchmarks are run seldom and by hand: what they import must still be there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("benchmarks", "harness", "data_prep", "checkpoint_tools")


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import of our own, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            yield from ((str(node.module), alias.name) for alias in node.names)


def is_there(module: str, name: str) -> bool:
    """Return whether a module has a name, or a module of that name within. Nothing is imported: that takes seconds."""
    folder = ROOT / module.replace(".", "/")
    source = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    if (folder / name).is_dir() or (folder / f"{name}.py").exists():
        return True
    return source.exists() and name in names_of(ast.parse(source.read_text()))


def names_of(tree: ast.Module) -> set[str]:
    """Return the names that a module binds."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.ImportFrom() | ast.Import():
                names |= {alias.asname or alias.name for alias in node.names}
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    missing = [f"{module}: {name}" for module, name in imported(path) if not is_there(module, name)]
    assert missing == []


def test_a_module_that_has_gone_is_found() -> None:
    assert is_there("harness.alerts.desk", "AlertDesk")
    assert not is_there("harness.alerts.desk", "Alerts")
    assert not is_there("harness.alerts_of_before", "Alerts")
