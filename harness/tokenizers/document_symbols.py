"""The symbols around documents: which one ends a document, and why; which one would begin it; the unknown one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import DataError, UsageError
from harness.tokenizers.pieces import Piece
from harness.tokenizers.tokenizer_file import parse_described, read_file

SETTINGS_FILE = "tokenizer_config.json"
"""The file beside a tokenizer that names its symbols."""
_OLDER_FILE = "special_tokens_map.json"
_ADDED_FILE = "added_tokens.json"
_SOURCE = "read from"
"""Key under which settings say that their `eos_token` stands in another file."""
_END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<|end_of_document|>", "<eod>", "</s>", "<eos>")
"""Names tried in this order where the tokenizer itself does not name the symbol that ends a document."""
_BEGINS_BY_DEFAULT = ("LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast")
"""Classes of transformers that begin every text with a symbol unless their settings say no."""
_SHOWN = 12
_MOST_SHOWN = 60
_MOST_DIGITS = 9
"""Digits of an id that a person names: no vocabulary has more ids."""


@dataclass(frozen=True, kw_only=True)
class Symbol:
    """A symbol at the border of documents."""

    id: int
    spelling: str
    reason: str
    """The reason for taking this one."""

    def __str__(self) -> str:
        return f"{self.spelling} (id {self.id}): {self.reason}"


@dataclass(frozen=True, kw_only=True)
class DocumentSymbols:
    """The symbols that a tokenizer has for documents."""

    end: Symbol | None
    """The symbol behind every document."""
    problem: str = ""
    """The reason why none is known, and what to do."""
    begin: Symbol | None = None
    """The symbol that the tokenizer's own library puts before every text; None if it puts none."""
    unknown_id: int | None = None
    """Id of what the vocabulary has no piece for; None if there is none."""

    def require_end(self) -> Symbol:
        """Return the symbol behind every document.

        Raises:
            DataError: There is none, or the settings name one that is not there.
        """
        if self.end is None:
            raise DataError(self.problem)
        return self.end


class HasDocumentSymbols:
    """A tokenizer that knows its symbols around documents."""

    symbols: DocumentSymbols
    tried: Mapping[str, Any] | None = None

    @property
    def end_of_document_id(self) -> int:
        """Id of the symbol behind every document.

        Raises:
            DataError: None is known.
        """
        return self.symbols.require_end().id


def find_symbols(
    path: Path,
    ids: Mapping[str, int],
    settings: Mapping[str, Any],
    *,
    own_end: Symbol | None = None,
    unknown_id: int | None = None,
) -> DocumentSymbols:
    """Return the symbols of a tokenizer by the names of its settings, by its own choice, or by usual names.

    Args:
        path: The tokenizer's file.
        ids: Ids of the spellings among which a symbol may be.
        settings: The settings beside the file; see `read_settings`.
        own_end: The symbol that the file itself has for the end, if it has one.
        unknown_id: Id of the unknown symbol.
    """
    if (named := named_in(settings, "eos_token")) is not None:
        source = settings.get(_SOURCE, SETTINGS_FILE)
        if isinstance(named, str) and named in ids:
            end = Symbol(id=ids[named], spelling=named, reason=f"eos_token of {source}")
            return DocumentSymbols(end=end, unknown_id=unknown_id)
        if own_end is not None and isinstance(named, str) and named in _added(path, settings):
            # Its own library knows it, the file with the vocabulary does not.
            reason = f"{own_end.reason}; {named}, the eos_token of {source}, is an added token that {path.name} lacks"
            return DocumentSymbols(end=replace(own_end, reason=reason), unknown_id=unknown_id)
        problem = (
            f"{path.with_name(source)}: eos_token is {_short(named)}, which is not in the vocabulary of {path.name}. "
            "Correct it, or name the symbol that ends a document (`harness data tokenize --end-of-document SYMBOL`)."
        )
        return DocumentSymbols(end=None, problem=problem, unknown_id=unknown_id)
    if own_end is not None:
        return DocumentSymbols(end=own_end, unknown_id=unknown_id)
    for name in _END_NAMES:
        if name in ids:
            reason = "a usual name; the tokenizer itself names none"
            return DocumentSymbols(end=Symbol(id=ids[name], spelling=name, reason=reason), unknown_id=unknown_id)
    problem = (
        f"tokenizer {path}: it has no symbol that ends a document. Looked for its own end-of-sequence symbol and for "
        f"{', '.join(_END_NAMES)}. Train it with one, name it in {SETTINGS_FILE} as eos_token, or give "
        "`--end-of-document SYMBOL` to `harness data tokenize`."
    )
    return DocumentSymbols(end=None, problem=problem, unknown_id=unknown_id)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings beside a tokenizer's file, with the symbols that older versions named in a file of their own.

    Raises:
        DataError: They are unreadable.
    """
    settings = _read_object(path.with_name(SETTINGS_FILE))
    settings.pop(_SOURCE, None)
    if named_in(settings, "eos_token") is None:
        older = _read_object(path.with_name(_OLDER_FILE))
        if named_in(older, "eos_token") is not None:
            settings |= {"eos_token": older["eos_token"], _SOURCE: _OLDER_FILE}
    return settings


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = parse_described(read_file(file))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise DataError(f"tokenizer {file}: not readable as JSON ({error}). Fetch it again or remove it.") from error
    return found


def _added(path: Path, settings: Mapping[str, Any]) -> set[str]:
    """Return the spellings of the tokens that are added to a vocabulary by the files beside it."""
    decoder = settings.get("added_tokens_decoder")
    described = decoder.values() if isinstance(decoder, Mapping) else ()
    spelt = {str(token.get("content")) for token in described if isinstance(token, Mapping)}
    return spelt | set(_read_object(path.with_name(_ADDED_FILE)))


def named_in(settings: Mapping[str, Any], key: str) -> object:
    """Return a symbol of the settings, which may stand in an object with `content`; None if it is not named."""
    token = settings.get(key)
    return token.get("content") if isinstance(token, Mapping) else token


def begins_by_settings(settings: Mapping[str, Any]) -> bool | None:
    """Return whether settings say that every text begins with a symbol; None if they do not say."""
    said = settings.get("add_bos_token")
    if isinstance(said, bool):
        return said
    return True if settings.get("tokenizer_class") in _BEGINS_BY_DEFAULT else None


def with_begin(symbols: DocumentSymbols, ids: Mapping[str, int], name: object, reason: str) -> DocumentSymbols:
    """Return the symbols with one that begins every text, if the vocabulary has it."""
    if not isinstance(name, str) or name not in ids:
        return symbols
    return replace(symbols, begin=Symbol(id=ids[name], spelling=name, reason=reason))


def symbol_called(pieces: Sequence[Piece], text: str, option: str) -> Symbol:
    """Return the symbol that a person calls by its spelling or its id.

    Raises:
        UsageError: The vocabulary does not have it.
    """
    is_id = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if is_id and int(text) < len(pieces) and pieces[int(text)].content:
        return Symbol(id=int(text), spelling=_spelling(pieces[int(text)]), reason=option)
    wanted = text.encode()
    found = [number for number, piece in enumerate(pieces) if piece.content == wanted]
    if not wanted or not found:
        controls = [_spelling(piece) for piece in pieces if piece.is_control and piece.content]
        shown = ", ".join(controls[:_SHOWN]) + (" …" if len(controls) > _SHOWN else "")
        raise UsageError(
            f"{option} {text!r}: the vocabulary has no such piece, nor such an id. Its control symbols are: "
            f"{shown or 'none'}."
        )
    chosen = next((number for number in found if pieces[number].is_control), found[0])
    return Symbol(id=chosen, spelling=text, reason=option)


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _spelling(piece: Piece) -> str:
    return piece.content.decode("utf-8", "replace")
