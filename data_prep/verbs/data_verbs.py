"""The `harness data` commands."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.verbs.preparing import channel_folder, prepared
from harness.errors import UsageError
from harness.text import listed

if TYPE_CHECKING:
    from data_prep.channels.long_documents import LongDocuments

IN = click.argument("inputs", metavar="IN...", nargs=-1, required=True)
TOKENIZER = click.option(
    "--tokenizer", type=click.Path(path_type=Path), required=True, help="*.model, tokenizer.json or *.tiktoken."
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
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Give up if more than this share of the lines are not documents.",
)


@click.command()
@IN
@TOKENIZER
@click.option("--channel", required=True, help="Name of the channel, as configurations will call it.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="The channel becomes the folder OUTPUT/CHANNEL."
)
@click.option("--text-key", default="text", show_default=True, help="Key of each JSON object that holds the document.")
@click.option(
    "--tokens-per-part",
    type=click.IntRange(min=1),
    default=1_000_000_000,
    show_default=True,
    help="A part ends with the document that reaches this; an interrupted call loses at most one part.",
)
@click.option(
    "--append-eod/--no-append-eod",
    default=True,
    show_default=True,
    help="Whether the tokenizer's end-of-document token is put after every document.",
)
@click.option(
    "--max-document-tokens",
    type=click.IntRange(min=2),
    help="Longest document, its end-of-document token included; --long-documents decides about longer ones.",
)
@click.option(
    "--long-documents",
    type=click.Choice(["split", "drop", "keep"]),
    help="Documents over --max-document-tokens are cut into documents of that length [default], or left out.",
)
@ENCODER
@MAX_REJECTED_SHARE
def tokenize(  # noqa: PLR0913 - one argument per option
    *,
    inputs: tuple[str, ...],
    tokenizer: Path,
    channel: str,
    output: Path,
    text_key: str,
    tokens_per_part: int,
    append_eod: bool,
    max_document_tokens: int | None,
    long_documents: LongDocuments | None,
    encoder: str,
    max_rejected_share: float,
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
      data/zh/parts.jsonl                         one line per finished part
      data/zh/rejected.jsonl                      lines that are not documents, and why
      data/zh/source.json                         what the channel was made from
      data/zh/resume.jsonl                        where in the input each part ends
    and a configuration names it with
      data: {channels: {zh: {path: data/zh}}}

    Run the same command again after an interruption: it continues after the last finished part. Run it again on a
    finished channel: it says what is there and does nothing. With other input or another tokenizer it refuses. So no
    document is ever in a channel twice.
    """
    folder = channel_folder(output, channel)
    # Imported here so that --help stays instant.
    from data_prep.channels.channel_job import ChannelJob
    from data_prep.channels.tokenize_channel import tokenize_channel
    from data_prep.text.input_files import find_inputs
    from harness.tokenizers.tokenizer import open_tokenizer

    job = ChannelJob(
        inputs=find_inputs(inputs),
        folder=folder,
        text_key=text_key,
        tokens_per_part=tokens_per_part,
        append_end_of_document=append_eod,
        max_document_tokens=max_document_tokens,
        long_documents=_long_documents(max_document_tokens, long_documents),
        max_rejected_share=max_rejected_share,
    )
    opened = open_tokenizer(tokenizer)
    with prepared(f"tokenize {channel}", job, opened, encoder) as (progress, chosen):
        result = tokenize_channel(job, opened, progress, chosen)
    click.echo(result.summary(folder))


@click.command()
@IN
@TOKENIZER
@click.option("--channel", required=True, help="Name of the channel that is there.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="The channel is the folder OUTPUT/CHANNEL."
)
@click.option(
    "--accept-same-names", is_flag=True, help="A file of another size and a name that is there is another file."
)
@ENCODER
@MAX_REJECTED_SHARE
def append(  # noqa: PLR0913 - one argument per option
    *,
    inputs: tuple[str, ...],
    tokenizer: Path,
    channel: str,
    output: Path,
    accept_same_names: bool,
    encoder: str,
    max_rejected_share: float,
) -> None:
    """Add further files to a channel: new parts behind those that are there, made in the same way.

    \b
    Examples:
      harness data append corpus/zh/new.jsonl --tokenizer tokenizer.model --channel zh --output data
      harness data append corpus/zh/ --tokenizer tokenizer.model --channel zh --output data

    IN are named as for `harness data tokenize`. Files that the channel holds already, by name and size, are left out,
    so the whole folder may be named again and again. How text is read and documents end is as the channel was made. A
    run that trains on the channel adopts the new parts. Run the same command again after an interruption.
    """
    from dataclasses import replace

    from data_prep.channels.append_files import opened_append
    from data_prep.text.input_files import find_inputs
    from harness.tokenizers.tokenizer import open_tokenizer

    folder, opened = channel_folder(output, channel), open_tokenizer(tokenizer)
    files = find_inputs(inputs)
    while files:
        with opened_append(folder, files, opened, accept_same_names=accept_same_names) as call:
            if call.known:
                names = listed([file.name for file in call.known], 3)
                click.echo(f"append {channel}: the channel holds {names} already: left out", err=True)
            if not call.job.inputs:
                click.echo(f"{folder}: nothing to add; all files are in the channel already")
                return
            job = replace(call.job, max_rejected_share=max_rejected_share)
            with prepared(f"append {channel}", job, opened, encoder) as (progress, chosen):
                result = replace(call, job=job).run(opened, progress, chosen)
        click.echo(result.summary(folder))
        files = list(call.later)


def _long_documents(max_document_tokens: int | None, long_documents: LongDocuments | None) -> LongDocuments:
    if max_document_tokens is None:
        if long_documents in ("split", "drop"):
            raise UsageError(
                f"--long-documents {long_documents} needs a length: give --max-document-tokens, for example 32768."
            )
        return "keep"
    return long_documents or "split"
