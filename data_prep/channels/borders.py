"""Chooses the symbols around documents, and says which were chosen and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.channels.long_documents import LongDocuments
from harness.errors import UsageError
from harness.tokenizers.document_symbols import Symbol, symbol_called
from harness.tokenizers.tokenizer import Tokenizer

NO_SYMBOL = "none"


@dataclass(frozen=True, kw_only=True)
class Borders:
    """The symbols that are put around documents."""

    begin: Symbol | None
    end: Symbol | None
    notes: tuple[str, ...]
    """The choice and its reason, for people."""


@dataclass(frozen=True, kw_only=True)
class NamedBorders:
    """The symbols around documents as the options name them."""

    append_eod: bool
    end: str | None
    begin: str | None


def choose_borders(tokenizer: Tokenizer, named: NamedBorders, max_document_tokens: int | None) -> Borders:
    """Return the symbols around documents: those that are named, else the tokenizer's own end and no begin.

    Raises:
        UsageError: A symbol is not in the vocabulary, an end is named that shall not be appended, or documents of
            `max_document_tokens` have no room for text besides the symbols.
        DataError: None is named, and it is not known which symbol ends a document.
    """
    begin, end = named.begin, named.end
    if end is not None and not named.append_eod:
        raise UsageError(f"--end-of-document {end!r} and --no-append-eod exclude each other: leave one out.")
    pieces = tokenizer.pieces()
    first = None if begin in (None, NO_SYMBOL) else symbol_called(pieces, str(begin), "--begin-of-document")
    last = None
    if named.append_eod:
        last = tokenizer.symbols.require_end() if end is None else symbol_called(pieces, end, "--end-of-document")
    num_symbols = (first is not None) + (last is not None)
    if max_document_tokens is not None and max_document_tokens <= num_symbols:
        raise UsageError(
            f"--max-document-tokens {max_document_tokens} leaves no room for text besides the {num_symbols} symbols "
            f"around a document. Give at least {num_symbols + 1}."
        )
    return Borders(begin=first, end=last, notes=tuple(_notes(tokenizer, first, last, is_begin_said=begin is not None)))


def _notes(tokenizer: Tokenizer, first: Symbol | None, last: Symbol | None, *, is_begin_said: bool) -> Iterator[str]:
    yield f"documents end with {last}" if last else "nothing is put behind documents"
    if first:
        yield f"documents begin with {first}"
    own = tokenizer.symbols.begin
    if own and not is_begin_said:
        yield (
            f"WARNING: no document begins with {own.spelling} (id {own.id}), though {own.reason}. To put it there: "
            f"--begin-of-document {own.spelling!r}; to leave it out without this warning: --begin-of-document none"
        )
    pieces = tokenizer.pieces()
    for symbol in (first, last):
        if symbol and not pieces[symbol.id].is_control:
            yield (
                f"WARNING: {symbol.spelling} is no control symbol of the tokenizer: where a document has it as text, "
                "the same token stands"
            )


def treatment_of_long(max_document_tokens: int | None, wanted: LongDocuments | None) -> LongDocuments:
    """Return what becomes of documents over the largest length; without one, all are kept.

    Raises:
        UsageError: A treatment is wanted that needs a length, and there is none.
    """
    if max_document_tokens is None:
        if wanted in ("split", "drop"):
            raise UsageError(
                f"--long-documents {wanted} needs a length: give --max-document-tokens, for example 32768."
            )
        return "keep"
    return wanted or "split"
