"""Recognises the kind of a tokenizer by the content of its file, and the tokenizer among the files of a folder."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from harness.errors import DataError
from harness.tokenizers.tekken_file import is_tekken
from harness.tokenizers.tiktoken_file import is_tiktoken
from harness.tokenizers.tokenizer_file import parse_described, read_file

Kind = Literal["sentencepiece", "hugging-face", "tiktoken", "tekken"]

KINDS = "a SentencePiece model, a Hugging Face tokenizer.json, a tiktoken file, or a tekken JSON"
_LIKELY = re.compile(r".*(tokenizer|tekken|spiece|sentencepiece|\.tiktoken|\.model|\.spm|\.bpe).*", re.IGNORECASE)
"""Names that files of tokenizers have."""
_SETTINGS = re.compile(r".*\.(tiktoken\.json|py|md|txt|jinja)|tokenizer_config\.json", re.IGNORECASE)
"""Likely names of files that describe a tokenizer further, and are none."""
_LFS = b"version https://git-lfs"
_PIECE = b"\x0a"
"""Begins a SentencePiece model's first piece; behind its length, the spelling."""
_OTHER_JSON: Mapping[str, str] = {
    "tokenizer_class": "the settings of a tokenizer (tokenizer_config.json). Name the file with the vocabulary",
    "added_tokens_decoder": "the settings of a tokenizer (tokenizer_config.json). Name the file with the vocabulary",
    "model_type": "the config.json of a model. Name the file with the vocabulary",
    "split": "the description that belongs beside a tiktoken file. Name the tiktoken file",
}


def kind_of(path: Path, content: bytes) -> Kind:
    """Return the kind of a tokenizer's file. The name says something only of a broken file.

    Raises:
        DataError: It is none that is known.
    """
    if content.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{":
        return _kind_of_json(path, content)
    if content.startswith(_LFS):
        raise DataError(f"tokenizer {path}: a Git LFS pointer, not the file: fetch it with `git lfs pull`.")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"tokenizer {path}: the file is UTF-16. Save it as UTF-8, as transformers writes it.")
    if content and (is_tiktoken(content) or path.suffix == ".tiktoken"):
        return "tiktoken"
    if content[:1] == content[2:3] == _PIECE:
        return "sentencepiece"
    begins = f"begins with {content[:12]!r}" if content else "is empty"
    raise DataError(
        f"tokenizer {path}: the file {begins}. Allowed are {KINDS}, or a folder that holds one of them. "
        "It may be truncated: fetch it again."
    )


def _kind_of_json(path: Path, content: bytes) -> Kind:
    try:
        described: Any = parse_described(content)
    except ValueError as error:
        raise DataError(
            f"tokenizer {path}: not readable as JSON ({len(content)} bytes: {error}). The file may be truncated: fetch "
            "it again."
        ) from error
    if isinstance(described.get("model"), dict):
        return "hugging-face"
    if is_tekken(described):
        return "tekken"
    known = next((text for key, text in _OTHER_JSON.items() if key in described), None)
    if len(described) > 1 and all(isinstance(value, int) for value in described.values()):
        known = "a vocabulary without its rules (vocab.json). Save the tokenizer with transformers, as a tokenizer.json"
    raise DataError(
        f"tokenizer {path}: {known or 'this JSON is no tokenizer'}. Allowed are {KINDS}, or a folder that holds one "
        "of them."
    )


def find_file(path: Path) -> Path:
    """Return the file that a path names, or the one tokenizer of a folder.

    Raises:
        DataError: There is no such file, or the folder holds none or several.
    """
    try:
        path.is_file()
    except OSError as error:
        raise DataError(f"tokenizer {str(path)[:80]}…: {error.strerror}. Check the path.") from error
    for link in (path, path / "tokenizer.json"):
        if link.is_symlink() and not link.exists():
            raise DataError(f"tokenizer {link}: a link that leads nowhere, to {link.readlink()}. Fetch the file again.")
    if path.is_file():
        return path
    if not path.is_dir():
        problem = "it is no regular file" if path.exists() else "there is no such file or folder"
        raise DataError(f"tokenizer {path}: {problem}. Check the path.")
    if (path / "tokenizer.json").is_file():
        return path / "tokenizer.json"
    found = tokenizer_files(path)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        apart = path / "vocab.json", path / "merges.txt"
        hint = (
            " vocab.json and merges.txt do not say how text is split: save the tokenizer with transformers, as a "
            "tokenizer.json."
            if not found and all(file.is_file() for file in apart)
            else " Name the file itself."
        )
        raise DataError(
            f"tokenizer {path}: the folder has no tokenizer.json, and needs exactly one other tokenizer (found: "
            f"{names}).{hint}"
        )
    return found[0]


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are tokenizers by their content, in order of their names."""
    named = (file for file in sorted(folder.iterdir()) if _LIKELY.fullmatch(file.name) and file.is_file())
    return [file for file in named if not _SETTINGS.fullmatch(file.name) and _is_tokenizer(file)]


def _is_tokenizer(file: Path) -> bool:
    try:
        kind_of(file, read_file(file))
    except DataError:
        # A broken one is not passed over in favour of another.
        return file.suffix in (".model", ".tiktoken") or file.name == "tokenizer.json"
    return True
