"""The files that make up a tokenizer: its own, and the settings beside it, which are copied as they are.

Code beside a tokenizer (`tokenization_….py`) is a file like the others: it is copied and never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from harness.errors import DataError
from harness.tokenizers.tiktoken_file import TiktokenTokenizer
from harness.tokenizers.tokenizer import SentencePieceTokenizer, Tokenizer

SETTINGS_FILE = "tokenizer_config.json"
_SETTINGS = (
    SETTINGS_FILE,
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that say how a tokenizer is used, and not which ids there are."""
_TEMPLATE_FOLDERS = ("chat_templates", "additional_chat_templates")
_BESIDE = (*_SETTINGS, "added_tokens.json", "vocab.json", "merges.txt")
_IN_A_MODEL = re.compile(
    r"tokenizer[^/]*\.json|tokenization_\w+\.py|tekken[^/]*\.json|[^/]+\.(model|model\.v\d+|spm|tiktoken|tiktoken\.json)|"
    r"vocab\.(json|txt|bpe)|merges\.txt|encoder\.json"
)
"""Names that files with the ids and the rules of a tokenizer have in a model's folder."""


def files_of_tokenizer(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the files of an open tokenizer, by the names that they have in a model's folder.

    Raises:
        DataError: One of them cannot be read.
    """
    path = tokenizer.path
    beside = _names_beside(path.parent)
    name = "tokenizer.json"
    if isinstance(tokenizer, TiktokenTokenizer):
        name, beside = path.name, [other for other in (f"{path.name}.json",) if (path.parent / other).is_file()]
    elif isinstance(tokenizer, SentencePieceTokenizer):
        name = "tokenizer.model"
        if (path.parent / "tokenizer.json").is_file():  # the others describe that one
            beside = []
    return {other: _read(path.parent / other) for other in beside} | {name: _read(path)}


def names_in_model(folder: Path) -> list[str]:
    """Return the names of a tokenizer's files in the folder of a Hugging Face model."""
    named = {file.name for file in folder.iterdir() if _IN_A_MODEL.fullmatch(file.name)}
    return sorted({*named, *_names_beside(folder)})


def settings_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that hold for every tokenizer in which the ids of this one mean the same."""
    return {name: content for name, content in files.items() if _is_setting(name)}


def _is_setting(name: str) -> bool:
    return name in _SETTINGS or name.split("/")[0] in _TEMPLATE_FOLDERS


def _names_beside(folder: Path) -> list[str]:
    templates = (file for inner in _TEMPLATE_FOLDERS for file in sorted((folder / inner).glob("*.jinja")))
    return [
        *(name for name in _BESIDE if (folder / name).is_file()),
        *(f"{file.parent.name}/{file.name}" for file in templates if file.is_file()),
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"tokenizer {path}: cannot be read: {error.strerror}.") from error
