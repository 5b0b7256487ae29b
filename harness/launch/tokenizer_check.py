"""Checks the tokenizer of a run before it is queued, and that its channels were made with it."""

from __future__ import annotations

from dataclasses import replace

from harness.channels.made_with import TokenizerFindings, compare_channels, paths_in_use
from harness.config.schema import Config
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import open_tokenizer


def look_at_tokenizer(config: Config) -> TokenizerFindings:
    """Return what is wrong with the tokenizer and the channels of a run.

    Where the library that reads the tokenizer is not installed, channels are compared with each other only.
    """
    path, rows = config.data.tokenizer, config.model.vocab_size
    try:
        tokenizer = None if path is None else open_tokenizer(path, needs_end=False)
    except DataError as error:
        return TokenizerFindings(problems=(f"data.tokenizer: {error}",))
    except UsageError as error:
        found = compare_channels(paths_in_use(config), None)
        return replace(found, notes=(*found.notes, f"data.tokenizer was not checked: {error}"))
    found = compare_channels(paths_in_use(config), tokenizer)
    if tokenizer is None or tokenizer.vocab_size <= rows:
        return found
    problem = (
        f"data.tokenizer: {path} has {tokenizer.vocab_size} ids, but model.vocab_size is {rows}: set it to "
        f"{tokenizer.vocab_size} or more; a converted model gets them by harness convert from-hf --vocab-size"
    )
    return replace(found, problems=(problem, *found.problems))
