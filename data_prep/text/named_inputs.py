"""Reads arguments like `zh=corpus/zh`: text of several channels, of which samples are taken by weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from data_prep.text.input_file import InputFile
from data_prep.text.input_files import find_inputs
from data_prep.text.sample_documents import sample_documents
from harness.errors import DataError, UsageError
from harness.limits import LEAST_FLOAT, MOST_FLOAT

Weight = TypeVar("Weight", float, Fraction)


def named_inputs(arguments: Sequence[str]) -> dict[str, list[InputFile]]:
    """Return the files of each channel. An argument without a name belongs to the channel `text`.

    Raises:
        UsageError: An argument names nothing, or a file twice.
    """
    by_name: dict[str, list[str]] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        is_named = bool(separator) and "/" not in name
        if is_named and not name:
            raise UsageError(f"input {argument!r} names no channel before '='. Example: zh=corpus/zh.")
        by_name.setdefault(name if is_named else "text", []).append(path if is_named else argument)
    return {name: find_inputs(paths) for name, paths in by_name.items()}


def read_weight(text: str) -> tuple[str, float]:
    """Split `zh=4` into name and weight.

    Raises:
        UsageError: It is not that.
    """
    name, _, weight = text.partition("=")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not name or not LEAST_FLOAT <= value <= MOST_FLOAT:
        raise UsageError(
            f"--share {text[:80]!r} is not CHANNEL=WEIGHT with a weight above 0 (at most {MOST_FLOAT:g}). "
            "Example: --share zh=4."
        )
    return name, value


def draw_samples(
    inputs: Mapping[str, Sequence[InputFile]], shares: Mapping[str, float], text_key: str, characters: int
) -> dict[str, list[str]]:
    """Return documents of each channel, about `characters` in all, in proportion to the shares (1 by default).

    Raises:
        UsageError: A share is of no channel.
        DataError: A channel has no document.
    """
    unknown = [name for name in shares if name not in inputs]
    if unknown:
        raise UsageError(f"--share {unknown[0]}: there is no such channel. Channels: {', '.join(inputs)}.")
    weights = {name: shares.get(name, 1.0) for name in inputs}
    drawn = {name: sample_documents(files, text_key, characters) for name, files in inputs.items()}
    empty = [name for name, documents in drawn.items() if not documents]
    if empty:
        raise DataError(
            f"channel {empty[0]} has no document under the key {text_key!r}. Check the path and --text-key."
        )
    wanted = draw_by_weight({name: sum(map(len, found)) for name, found in drawn.items()}, weights, characters)
    return {name: thinned(documents, wanted[name]) for name, documents in drawn.items()}


def thinned(documents: Sequence[str], characters: int) -> list[str]:
    """Return documents from all over the list, about this many characters of them."""
    total = sum(map(len, documents))
    if total <= characters:
        return list(documents)
    kept: list[str] = []
    seen = taken = 0
    for document in documents:
        seen += len(document)
        # As much is taken at any time as the share of what has been seen; only a document too long for all is cut.
        room = seen * characters // total - taken
        piece = document if len(document) <= characters else document[:room]
        if piece and 2 * room >= len(piece):
            kept.append(piece)
            taken += len(piece)
    return kept


def draw_by_weight(available: Mapping[str, int], shares: Mapping[str, Weight], amount: int) -> dict[str, int]:
    """Return how much to take of each channel, in proportion to the shares; others make up for a small one."""
    taken: dict[str, int] = {}
    open_names = list(shares)
    while open_names:
        rest = amount - sum(taken.values())
        total = sum(shares[name] for name in open_names)
        short = [name for name in open_names if available[name] <= rest * shares[name] / total]
        if not short:
            return taken | {name: int(rest * shares[name] / total) for name in open_names}
        taken |= {name: available[name] for name in short}
        open_names = [name for name in open_names if name not in short]
    return taken
