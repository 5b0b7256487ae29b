"""The files that make up a tokenizer: its own, and the settings beside it, which are copied as they are.

Code beside a tokenizer (`tokenization_….py`) is a file like the others: it is copied and never run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.tokenizers.document_symbols import SETTINGS_FILE
from harness.tokenizers.recognise import tokenizer_files
from harness.tokenizers.tiktoken_file import description_file
from harness.tokenizers.tokenizer import Tokenizer
from harness.tokenizers.tokenizer_file import parse_described, read_file

_NAMES = {"hugging-face": "tokenizer.json", "sentencepiece": "tokenizer.model", "tekken": "tekken.json"}
"""Names of the file with the ids, by its kind; a tiktoken file keeps its own."""
_SETTINGS = (
    SETTINGS_FILE,
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that say how a tokenizer is used, and not which ids there are."""
_TEMPLATE, _DECODER = "chat_template", "added_tokens_decoder"
"""Keys of a tokenizer's settings."""
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
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
    return {name: read_file(path.parent / name) for name in _beside(tokenizer)} | {_name_of(tokenizer): read_file(path)}


def _name_of(tokenizer: Tokenizer) -> str:
    return _NAMES.get(tokenizer.kind) or tokenizer.path.name


def _beside(tokenizer: Tokenizer) -> list[str]:
    """Return the names of the files beside a tokenizer that belong to it."""
    folder, name = tokenizer.path.parent, tokenizer.path.name
    described = description_file(tokenizer.path)
    if tokenizer.kind == "tiktoken" and described.is_file():
        return [described.name]
    if tokenizer.kind != "hugging-face":
        is_alone = tokenizer_files(folder) == [tokenizer.path]
        return _names_beside(folder, _BESIDE) if is_alone else []
    return _names_beside(folder, _BESIDE if name == _NAMES["hugging-face"] else _SETTINGS)


def names_in_model(folder: Path) -> list[str]:
    """Return the names of a tokenizer's files in the folder of a Hugging Face model."""
    named = {file.name for file in folder.iterdir() if _IN_A_MODEL.fullmatch(file.name)}
    return sorted({*named, *_names_beside(folder, _BESIDE)})


def settings_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that hold for every tokenizer in which the ids of this one mean the same."""
    return {name: content for name, content in files.items() if _is_setting(name)}


def with_settings_of(before: Mapping[str, bytes], own: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a tokenizer with the settings of the one that it grew from, key by key; its own count first.

    A chat template in a file counts before one in the settings: the file before makes way for a template of its own.
    """
    kept = settings_of(before)
    if _TEMPLATE in _object(own.get(SETTINGS_FILE)):
        kept = {name: content for name, content in kept.items() if name not in _TEMPLATE_FILES}
    merged = {**kept, **own}
    for name in kept.keys() & own.keys():
        old, new = _object(kept[name]), _object(own[name])
        if not old or not new or name not in _SETTINGS:
            continue
        fields = {**old, **new}
        if all(isinstance(side.get(_DECODER), dict) for side in (old, new)):
            fields[_DECODER] = {**old[_DECODER], **new[_DECODER]}
        if fields != new:
            text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
            merged[name] = kept[name] if fields == old else text.encode(errors="backslashreplace")
    return merged


def lost_settings(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    """Return the settings that other files lack or have otherwise: the names of files, with keys where some stay."""
    lost = []
    for name, content in sorted(settings_of(before).items()):
        old, new = _object(content), _object(after.get(name))
        if keys := sorted(key for key in old if key not in new or new[key] != old[key]):
            has_some = len(keys) < len(old) or name in after
            lost.append(f"{name} ({', '.join(map(_shown, keys))})" if has_some else name)
        elif not old and after.get(name) != content:
            lost.append(name)
    return lost


def _shown(key: str) -> str:
    return ascii(key)[1:-1][:60]


def _object(content: bytes | None) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        found = parse_described(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_setting(name: str) -> bool:
    return name in _SETTINGS or name.split("/")[0] in _TEMPLATE_FOLDERS


def _names_beside(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the names of files that are there; a link that leads nowhere is one, and whoever reads it is told."""
    templates = (file for inner in _TEMPLATE_FOLDERS for file in sorted((folder / inner).glob("*.jinja")))
    return [
        *(name for name in names if os.path.lexists(folder / name)),
        *(f"{file.parent.name}/{file.name}" for file in templates),
    ]
