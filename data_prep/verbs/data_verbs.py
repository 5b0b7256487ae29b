"""`harness data tokenize`."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.verbs.preparing import (
    ENCODER,
    ID_KEY,
    IN,
    MAX_LOST_SHARE,
    MAX_REJECTED_SHARE,
    TOKENIZER,
    channel_folder,
)
from harness.limits import MOST_TOKENS
from harness.say import say

if TYPE_CHECKING:
    from data_prep.channels.long_documents import LongDocuments


@click.command()
@IN
@TOKENIZER
@click.option("--channel", required=True, help="Name of the channel, as configurations will call it.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="The channel becomes the folder OUTPUT/CHANNEL."
)
@click.option("--text-key", default="text", show_default=True, help="Key of each JSON object that holds the document.")
@ID_KEY
@click.option(
    "--tokens-per-part",
    type=click.IntRange(1, MOST_TOKENS),
    default=1_000_000_000,
    show_default=True,
    help="A part ends with the document that reaches this; an interrupted call loses at most one part.",
)
@click.option(
    "--append-eod/--no-append-eod",
    default=True,
    show_default=True,
    help="Whether a symbol is put behind every document.",
)
@click.option(
    "--end-of-document",
    metavar="SYMBOL",
    help="That symbol, by its spelling or its id. Default: the one that the tokenizer names, or a usual one.",
)
@click.option(
    "--begin-of-document",
    metavar="SYMBOL|none",
    help="A symbol before every document. Default: none, with a warning if the tokenizer's own library puts one.",
)
@click.option(
    "--max-document-tokens",
    type=click.IntRange(2, MOST_TOKENS),
    help="Longest document, the symbols around it included; --long-documents decides about longer ones.",
)
@click.option(
    "--long-documents",
    type=click.Choice(["split", "drop", "keep"]),
    help="Documents over --max-document-tokens are cut into documents of that length [default], or left out.",
)
@ENCODER
@MAX_REJECTED_SHARE
@MAX_LOST_SHARE
def tokenize(  # noqa: PLR0913 - one argument per option
    *,
    inputs: tuple[str, ...],
    tokenizer: Path,
    channel: str,
    output: Path,
    append_eod: bool,
    end_of_document: str | None,
    begin_of_document: str | None,
    max_document_tokens: int | None,
    long_documents: LongDocuments | None,
    encoder: str,
    **settings: Any,  # noqa: ANN401 - fields of a ChannelJob
) -> None:
    """Make a channel out of text: tokens in numbered parts, in the order of the documents.

    IN are files, folders, patterns or fsspec addresses (s3://bucket/zh/*.jsonl.gz): .jsonl, .json or .ndjson (also .gz,
    .zst, .bz2, .xz) with one JSON object with a text per line, or .parquet with a column of texts. What lies in a
    folder and is not read is told.

    \b
    Example:
      harness data tokenize corpus/zh/ --tokenizer tokenizer.model --channel zh --output data
    makes
      data/zh/part-00000.bin, part-00000.idx, …   what training reads
      data/zh/part-00000.provenance, …            where each document came from: file, line, id or URL
      data/zh/parts.jsonl                         one line per finished part
      data/zh/rejected.jsonl                      lines that are not documents, and why
      data/zh/source.json                         what the channel was made from
      data/zh/resume.jsonl                        where in the input each part ends
    and a configuration names it with
      data: {channels: {zh: {path: data/zh}}}

    It says which symbol ends a document, and refuses a tokenizer that loses text of this input. Run again, it goes on
    behind the last finished part, or says that all is there. With other input or another tokenizer it refuses, so no
    document is ever in a channel twice; `harness data append` adds further files.
    """
    from data_prep.channels.borders import NamedBorders, choose_borders, treatment_of_long
    from data_prep.channels.channel_job import ChannelJob
    from data_prep.channels.prepared import prepared
    from data_prep.channels.tokenize_channel import tokenize_channel
    from data_prep.text.input_files import find_inputs
    from harness.tokenizers.tokenizer import open_tokenizer

    opened = open_tokenizer(tokenizer, needs_end=False)
    named = NamedBorders(append_eod=append_eod, end=end_of_document, begin=begin_of_document)
    borders = choose_borders(opened, named, max_document_tokens)
    say("\n".join(f"tokenize {channel}: {note}" for note in borders.notes), err=True)
    job = ChannelJob(
        inputs=find_inputs(inputs),
        folder=channel_folder(output, channel),
        append_end_of_document=append_eod,
        end_of_document_id=borders.end.id if borders.end else None,
        begin_of_document_id=borders.begin.id if borders.begin else None,
        max_document_tokens=max_document_tokens,
        long_documents=treatment_of_long(max_document_tokens, long_documents),
        **settings,
    )
    with prepared(f"tokenize {channel}", job, opened, encoder) as (progress, chosen):
        say(tokenize_channel(job, opened, progress, chosen).summary(job.folder))
