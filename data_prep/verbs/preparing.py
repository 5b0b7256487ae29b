"""Options and names that the verbs share which turn text into tokens."""

from __future__ import annotations

import re
from pathlib import Path

import click

from harness.errors import UsageError
from harness.finite_range import FiniteRange

CHANNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

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
