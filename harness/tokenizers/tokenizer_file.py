"""Imports the library that reads a kind of tokenizer file."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from harness.errors import UsageError


def import_library(name: str, path: Path, extra: str = "data") -> ModuleType:
    """Import the library that reads a kind of file.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"tokenizer {path}: reading it needs the Python package {name}, which is not installed. "
            f"Install the project with its `{extra}` extra."
        ) from error
