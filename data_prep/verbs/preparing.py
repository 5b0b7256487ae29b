"""Parts that the verbs share which turn text into tokens: options, symbols around documents, the look at a sample."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import DataError, UsageError
from harness.finite_range import FiniteRange
from harness.say import say

if TYPE_CHECKING:
    from data_prep.channels.channel_job import ChannelJob
    from data_prep.channels.totals import Progress
    from data_prep.tokenizers.encoders import Encoder
    from harness.tokenizers.document_symbols import Symbol
    from harness.tokenizers.tokenizer import Tokenizer

CHANNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NO_SYMBOL = "none"

IN = click.argument("inputs", metavar="IN...", nargs=-1, required=True)
TOKENIZER = click.option(
    "--tokenizer", type=click.Path(path_type=Path), required=True, help="Its file, of any kind and name, or its folder."
)
ENCODER = click.option(
    "--encoder",
    type=click.Choice(["auto", "reference", "fastokens", "gigatoken"]),
    default="auto",
    show_default=True,
    help="Library that encodes; a fast one must give the reference's ids on a sample of the input, or is not used.",
)
MAX_REJECTED_SHARE = click.option(
    "--max-rejected-share",
    type=FiniteRange(0, 1),
    default=0.01,
    show_default=True,
    help="Give up if more than this share of the lines are not documents.",
)
ID_KEY = click.option(
    "--id-key",
    help="Key of a record's id or URL, by which evidence names its document. Default: the first of url, metadata.url, "
    "meta.url, warc-target-uri …, id, metadata.id … that it has.",
)
MAX_LOST_SHARE = click.option(
    "--max-lost-share",
    type=FiniteRange(0, 1),
    default=0.01,
    show_default=True,
    help="Give up if more than this share of the characters (without white space) or of the tokens is lost.",
)


def channel_folder(output: Path, channel: str) -> Path:
    """Return the folder of a channel.

    Raises:
        UsageError: It cannot be the name of a channel.
    """
    if not CHANNEL_NAME.fullmatch(channel):
        raise UsageError(
            f"--channel {channel!r} cannot be the name of a channel. Allowed are up to 64 letters, digits, '_', '.' "
            "and '-', the first a letter or digit."
        )
    return output / channel


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
    from harness.tokenizers.document_symbols import symbol_called

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


@contextmanager
def prepared(title: str, job: ChannelJob, tokenizer: Tokenizer, encoder: str) -> Iterator[tuple[Progress, Encoder]]:
    """Look at a sample of the input: refuse a tokenizer that loses text, choose the encoder. Then show progress.

    Raises:
        DataError: More of the sample is lost than `job.max_lost_share`.
        UsageError: The encoder that is wanted is not installed.
    """
    # Imported here so that --help stays instant.
    from data_prep.channels.totals import shown_progress
    from data_prep.text.input_file import file_bytes
    from data_prep.text.sample_documents import sample_documents
    from data_prep.tokenizers.choose_encoder import SAMPLE_CHARACTERS, choose_encoder
    from harness.screen import Screen

    sample = sample_documents(job.inputs, job.text_key, SAMPLE_CHARACTERS)
    _check_loss(title, sample, tokenizer, job.max_lost_share)
    chosen = choose_encoder(tokenizer, sample, encoder)
    for note in chosen.notes:
        say(f"{title}: {note}", err=True)
    with shown_progress(title, sum(map(file_bytes, job.inputs)), Screen(stderr=True)) as progress:
        yield progress, chosen.encoder


def _check_loss(title: str, sample: list[str], tokenizer: Tokenizer, max_lost_share: float) -> None:
    from data_prep.tokenizers.round_trip import LOSS_ADVICE, count_lost, round_trip

    found = round_trip(sample, tokenizer)
    if found.worst_share > max_lost_share:
        raise DataError(
            f"the tokenizer {tokenizer.path} loses text of this input: {found.describe()}\nAllowed is a share of "
            f"{max_lost_share:.2%} without white space; nothing was written. {LOSS_ADVICE}"
        )
    if found.lost or found.unknown_tokens:
        warning = "WARNING: white space is lost (line breaks and indentation matter in code): "
        is_much = count_lost(found.lost).white_space > max_lost_share * found.characters
        say(f"{title}: {warning if is_much else ''}{found.describe()}", err=True)
