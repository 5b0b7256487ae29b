"""Parts that the verbs share which turn text into tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import UsageError

if TYPE_CHECKING:
    from data_prep.channels.channel_job import ChannelJob
    from data_prep.channels.totals import Progress
    from data_prep.tokenizers.encoders import Encoder
    from harness.tokenizers.tokenizer import Tokenizer

CHANNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


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


@contextmanager
def prepared(title: str, job: ChannelJob, tokenizer: Tokenizer, encoder: str) -> Iterator[tuple[Progress, Encoder]]:
    """Choose the encoder by a sample of the input, tell why, and give it together with a display of progress."""
    # Imported here so that --help stays instant.
    from rich.console import Console

    from data_prep.channels.totals import shown_progress
    from data_prep.text.input_file import file_bytes
    from data_prep.text.sample_documents import sample_documents
    from data_prep.tokenizers.choose_encoder import SAMPLE_CHARACTERS, choose_encoder

    sample = sample_documents(job.inputs, job.text_key, SAMPLE_CHARACTERS) if encoder != "reference" else []
    chosen = choose_encoder(tokenizer, sample, encoder)
    for note in chosen.notes:
        click.echo(f"{title}: {note}", err=True)
    with shown_progress(title, sum(map(file_bytes, job.inputs)), Console(stderr=True)) as progress:
        yield progress, chosen.encoder
