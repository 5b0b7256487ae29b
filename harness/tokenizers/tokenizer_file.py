"""Parts that the readers of all kinds of tokenizer files share: the end of a document, and the import of a library."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from harness.errors import DataError, UsageError

_END_OF_DOCUMENT_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<|end_of_document|>", "<eod>", "</s>", "<eos>")
"""Names tried in this order where the tokenizer itself does not name the symbol that ends a document."""


def end_of_document_id(path: Path, ids: Mapping[str, int], own: Sequence[str] = ()) -> int:
    """Return the id of the symbol that ends a document, by the tokenizer's own name for it or a usual one.

    Raises:
        DataError: There is none.
    """
    for name in (*own, *_END_OF_DOCUMENT_NAMES):
        if name in ids:
            return ids[name]
    raise DataError(
        f"tokenizer {path}: it has no symbol that ends a document. Looked for its own end-of-sequence symbol and for "
        f"{', '.join(_END_OF_DOCUMENT_NAMES)}. Train it with one, or name it in tokenizer_config.json as eos_token."
    )


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
