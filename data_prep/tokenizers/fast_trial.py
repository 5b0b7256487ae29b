"""Tries a fast encoder out on a tokenizer in a child process: it may loop for ever, fill the memory or end the process.

The same as `harness.tokenizers.trial` does with a tokenizer's own library, whose trial went before.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from data_prep.tokenizers.encoders import Encoder
from harness.limited_child import LimitedError, limited
from harness.text import one_line
from harness.tokenizers.native import is_panic
from harness.tokenizers.tokenizer import Tokenizer, read_tokenizer
from harness.tokenizers.tokenizer_file import read_file
from harness.tokenizers.trial import MEMORY_BYTES, SECONDS

_MOST_SHOWN = 200


class UnfitError(Exception):
    """An encoder cannot work with a tokenizer."""


def require_fit(make: Callable[[Tokenizer], Encoder], tokenizer: Tokenizer, documents: Sequence[str]) -> None:
    """Check that a fast encoder opens a tokenizer and encodes documents.

    Args:
        make: Its class, of a module that the child can import.
        tokenizer: The tokenizer.
        documents: A few short ones.

    Raises:
        ImportError: The package is not installed.
        UnfitError: It fails, or needs more time or memory than it may.
    """
    problem = _problem(make.__module__, make.__qualname__, tokenizer.path, tokenizer.file_hash, tuple(documents))
    if "missing" in problem:
        raise ImportError(problem["missing"])
    if "unfit" in problem:
        raise UnfitError(problem["unfit"])


@lru_cache(maxsize=16)
def _problem(module: str, name: str, path: Path, _file_hash: str, documents: tuple[str, ...]) -> dict[str, str]:
    request = json.dumps([module, name, str(path), documents]).encode()
    try:
        answer = limited(in_child, request, memory_bytes=MEMORY_BYTES, seconds=SECONDS)
    except LimitedError as error:
        return {"unfit": f"the file {error}"}
    found: dict[str, str] = json.loads(answer)  # noqa: TID251 (our own child's answer)
    return found


def in_child(content: bytes) -> bytes:
    """Return what is wrong with an encoder, as JSON; an empty object if nothing is. Runs in the child.

    Args:
        content: Module and name of the encoder's class, the tokenizer's path and the documents, as JSON.
    """
    module, name, path, documents = json.loads(content)  # noqa: TID251 (our own parent's request)
    found = {}
    try:
        tokenizer = read_tokenizer(Path(path), read_file(Path(path)))
        getattr(importlib.import_module(module), name)(tokenizer).encode(documents)
    except ImportError as error:
        found = {"missing": str(error)}
    except BaseException as error:  # the libraries raise plain exceptions for a tokenizer that they cannot read
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        found = {"unfit": first_line(error)}
    return json.dumps(found).encode()


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error; the name of its kind if it says nothing."""
    return one_line((str(error).splitlines() or [type(error).__name__])[0][:_MOST_SHOWN])
