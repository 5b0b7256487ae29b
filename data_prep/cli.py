"""The `harness data` commands."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import re
from pathlib import Path

import click

from harness.errors import UsageError

CHANNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@click.command()
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), required=True, help="SentencePiece .model, or tokenizer.json."
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
    "--max-rejected-share",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Give up if more than this share of the lines are no documents.",
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
    max_rejected_share: float,
) -> None:
    """Make a channel out of JSONL files: tokens in numbered parts, in the order of the documents.

    IN are files, folders or patterns: .jsonl, .jsonl.gz or .jsonl.zst, one JSON object with a text per line.

    \b
    Example:
      harness data tokenize corpus/zh/ --tokenizer tokenizer.model --channel zh --output data
    makes
      data/zh/part-00000.bin, part-00000.idx, …   what training reads
      data/zh/parts.jsonl                         one line per finished part
      data/zh/rejected.jsonl                      lines that are no documents, and why
      data/zh/source.json                         what the channel was made from
    and a configuration names it with
      data: {channels: {zh: {path: data/zh}}}

    Run the same command again after an interruption: it continues behind the last finished part. Run it again on a
    finished channel: it says what is there and does nothing. With other input or another tokenizer it refuses. So no
    document is ever in a channel twice.
    """
    if not CHANNEL_NAME.fullmatch(channel):
        raise UsageError(
            f"--channel {channel!r} cannot be the name of a channel. Allowed are up to 64 letters, digits, '_', '.' "
            "and '-', the first a letter or digit."
        )
    # Imported here so that --help stays instant.
    from rich.console import Console

    from data_prep.documents import find_inputs
    from data_prep.progress import shown_progress
    from data_prep.tokenize import ChannelJob, tokenize_channel
    from harness.data.tokenizer import open_tokenizer

    job = ChannelJob(
        inputs=find_inputs(inputs),
        folder=output / channel,
        text_key=text_key,
        tokens_per_part=tokens_per_part,
        append_end_of_document=append_eod,
        max_rejected_share=max_rejected_share,
    )
    opened = open_tokenizer(tokenizer)
    total_bytes = sum(file.stat().st_size for file in job.inputs)
    with shown_progress(f"tokenize {channel}", total_bytes, Console(stderr=True)) as progress:
        result = tokenize_channel(job, opened, progress)
    click.echo(result.summary(job.folder))
