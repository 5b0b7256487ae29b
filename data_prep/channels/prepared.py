"""Looks at a sample of the input before a channel is written: does the tokenizer fit, which library encodes fastest?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.channels.channel_job import ChannelJob
from data_prep.channels.totals import Progress, shown_progress
from data_prep.text.input_file import file_bytes
from data_prep.text.sample_documents import sample_documents
from data_prep.tokenizers.choose_encoder import SAMPLE_CHARACTERS, choose_encoder
from data_prep.tokenizers.encoders import Encoder
from data_prep.tokenizers.round_trip import LOSS_ADVICE, count_lost, round_trip
from harness.errors import DataError
from harness.say import say
from harness.screen import Screen
from harness.tokenizers.tokenizer import Tokenizer


@contextmanager
def prepared(title: str, job: ChannelJob, tokenizer: Tokenizer, encoder: str) -> Iterator[tuple[Progress, Encoder]]:
    """Look at a sample of the input: refuse a tokenizer that loses text, choose the encoder. Then show progress.

    Raises:
        DataError: More of the sample is lost than `job.max_lost_share`.
        UsageError: The encoder that is wanted is not installed.
    """
    sample = sample_documents(job.inputs, job.text_key, SAMPLE_CHARACTERS)
    _check_loss(title, sample, tokenizer, job.max_lost_share)
    chosen = choose_encoder(tokenizer, sample, encoder)
    for note in chosen.notes:
        say(f"{title}: {note}", err=True)
    with shown_progress(title, sum(map(file_bytes, job.inputs)), Screen(stderr=True)) as progress:
        yield progress, chosen.encoder


def _check_loss(title: str, sample: list[str], tokenizer: Tokenizer, max_lost_share: float) -> None:
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
