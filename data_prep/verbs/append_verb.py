"""`harness data append`."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

from pathlib import Path

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
from harness.say import say
from harness.text import listed


@click.command()
@IN
@TOKENIZER
@click.option("--channel", required=True, help="Name of the channel that is there.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="The channel is the folder OUTPUT/CHANNEL."
)
@click.option(
    "--accept-same-names", is_flag=True, help="A file of other content and a name that is there is another file."
)
@ID_KEY
@ENCODER
@MAX_REJECTED_SHARE
@MAX_LOST_SHARE
def append(  # noqa: PLR0913 - one argument per option
    *,
    inputs: tuple[str, ...],
    tokenizer: Path,
    channel: str,
    output: Path,
    accept_same_names: bool,
    id_key: str | None,
    encoder: str,
    max_rejected_share: float,
    max_lost_share: float,
) -> None:
    """Add further files to a channel: new parts behind those that are there, made in the same way.

    \b
    Examples:
      harness data append corpus/zh/new.jsonl --tokenizer tokenizer.model --channel zh --output data
      harness data append corpus/zh/ --tokenizer tokenizer.model --channel zh --output data

    IN are named as for `harness data tokenize`. Files whose content the channel holds already are left out,
    so the whole folder may be named again and again. How text is read and documents end is as the channel was made. A
    run that trains on the channel adopts the new parts. Run the same command again after an interruption.
    """
    from dataclasses import replace

    from data_prep.channels.append_files import opened_append
    from data_prep.channels.prepared import prepared
    from data_prep.text.input_files import find_inputs
    from harness.tokenizers.tokenizer import open_tokenizer

    folder, opened = channel_folder(output, channel), open_tokenizer(tokenizer, needs_end=False)
    files = find_inputs(inputs)
    while files:
        with opened_append(folder, files, opened, accept_same_names=accept_same_names) as call:
            if call.known:
                names = listed(list(map(str, call.known)), 3)
                say(f"append {channel}: the channel holds {names} already: left out", err=True)
            if not call.job.inputs:
                say(f"{folder}: nothing to add; all files are in the channel already")
                return
            job = replace(call.job, id_key=id_key, max_rejected_share=max_rejected_share, max_lost_share=max_lost_share)
            with prepared(f"append {channel}", job, opened, encoder) as (progress, chosen):
                result = replace(call, job=job).run(opened, progress, chosen)
        say(result.summary(folder))
        files = list(call.later)
