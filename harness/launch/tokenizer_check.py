"""Checks the tokenizer of a run before it is queued, and that its channels were made with it."""

from __future__ import annotations

from dataclasses import replace

from harness.channels.made_with import TokenizerFindings, compare_channels, paths_in_use, source_of
from harness.config.schema import Config
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import open_tokenizer


def look_at_tokenizer(config: Config) -> TokenizerFindings:
    """Return what is wrong with the tokenizer and the channels of a run.

    Where the library that reads the tokenizer is not installed, channels are compared with each other only.
    """
    path, rows = config.data.tokenizer, config.model.vocab_size
    paths = paths_in_use(config)
    try:
        tokenizer = None if path is None else open_tokenizer(path, needs_end=False)
    except DataError as error:
        return TokenizerFindings(problems=(f"data.tokenizer: {error}",))
    except UsageError as error:
        found = compare_channels(paths, None)
        return replace(found, notes=(*found.notes, f"data.tokenizer was not checked: {error}"))
    found = compare_channels(paths, tokenizer)
    if tokenizer is not None and tokenizer.vocab_size > rows:
        problem = _too_few_rows(f"data.tokenizer: {path}", tokenizer.vocab_size, rows)
        return replace(found, problems=(problem, *found.problems))
    if tokenizer is None and not found.problems:
        sizes = {key: source.tokenizer.vocab_size for key, each in paths.items() if (source := source_of(each))}
        wide = (_too_few_rows(f"{key}: its tokenizer", size, rows) for key, size in sizes.items() if size > rows)
        return replace(found, problems=tuple(wide))
    return found


def _too_few_rows(name: str, num_ids: int, rows: int) -> str:
    return (
        f"{name} has {num_ids} ids, but model.vocab_size is {rows}: set it to {num_ids} or more; a converted model "
        "gets them by harness convert from-hf --vocab-size"
    )
