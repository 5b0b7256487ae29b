"""The `harness data` commands."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import UsageError

if TYPE_CHECKING:
    from data_prep.channels.long_documents import LongDocuments
    from data_prep.channels.tokenize_channel import ChannelJob

CHANNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@click.command()
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), required=True, help="*.model, tokenizer.json or *.tiktoken."
)
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
@click.option(
    "--encoder",
    type=click.Choice(["auto", "reference", "fastokens", "gigatoken"]),
    default="auto",
    show_default=True,
    help="Library that encodes; a fast one must give the reference's ids on a sample of the input, or is not used.",
)
@click.option(
    "--max-rejected-share",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Give up if more than this share of the lines are not documents.",
)
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
    if not CHANNEL_NAME.fullmatch(channel):
        raise UsageError(
            f"--channel {channel!r} cannot be the name of a channel. Allowed are up to 64 letters, digits, '_', '.' "
            "and '-', the first a letter or digit."
        )
    # Imported here so that --help stays instant.
    from data_prep.channels.tokenize_channel import ChannelJob
    from data_prep.text.input_files import find_inputs

    job = ChannelJob(
        inputs=find_inputs(inputs),
        folder=output / channel,
        text_key=text_key,
        tokens_per_part=tokens_per_part,
        append_end_of_document=append_eod,
        max_document_tokens=max_document_tokens,
        long_documents=_long_documents(max_document_tokens, long_documents),
        max_rejected_share=max_rejected_share,
    )
    _make_channel(job, tokenizer, encoder)


def _make_channel(job: ChannelJob, tokenizer: Path, encoder: str) -> None:
    from rich.console import Console

    from data_prep.channels.tokenize_channel import tokenize_channel
    from data_prep.channels.totals import shown_progress
    from data_prep.text.input_file import file_bytes
    from data_prep.text.sample_documents import sample_documents
    from data_prep.tokenizers.choose_encoder import SAMPLE_CHARACTERS, choose_encoder
    from harness.tokenizers.tokenizer import open_tokenizer

    opened = open_tokenizer(tokenizer)
    sample = sample_documents(job.inputs, job.text_key, SAMPLE_CHARACTERS) if encoder != "reference" else []
    chosen = choose_encoder(opened, sample, encoder)
    title = f"tokenize {job.folder.name}"
    for note in chosen.notes:
        click.echo(f"{title}: {note}", err=True)
    total_bytes = sum(map(file_bytes, job.inputs))
    with shown_progress(title, total_bytes, Console(stderr=True)) as progress:
        result = tokenize_channel(job, opened, progress, chosen.encoder)
    click.echo(result.summary(job.folder))


def _long_documents(max_document_tokens: int | None, long_documents: LongDocuments | None) -> LongDocuments:
    if max_document_tokens is None:
        if long_documents in ("split", "drop"):
            raise UsageError(
                f"--long-documents {long_documents} needs a length: give --max-document-tokens, for example 32768."
            )
        return "keep"
    return long_documents or "split"
