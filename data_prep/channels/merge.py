"""Joins the parts of channels into fewer, larger ones, in order, reading a few million tokens at a time.

The files equal those that Megatron's builder makes of the same documents. The output is written under another name
(OUTPUT.partial), by one process at a time, and renamed when it is complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_prep.channels.indexed_writer import FinishedPart, PartWriter, require_parts
from data_prep.channels.source import finish_source
from harness.channels.parts import Part
from harness.channels.provenance import Provenance
from harness.channels.provenance_of_parts import all_of_part
from harness.channels.source import Source, Totals, read_source
from harness.data.files.opened import OpenPart, dtype_of, open_part, parts_of
from harness.errors import DataError, UsageError
from harness.progress import Progress
from harness.run.files import STAGING_SUFFIX
from harness.sole_writer import LOCK_FILE, partial_folder

TOKENS_AT_ONCE = 4 << 20
_OWN_NAME = re.compile(r"(part-\d+\.(bin|idx|provenance)|parts\.jsonl|source\.json)(\.partial)?")
"""Files of an unfinished merge."""


def merge_channels(
    inputs: Sequence[Path], output: Path, tokens_per_part: int | None, done: Progress
) -> list[FinishedPart]:
    """Make the output folder of channel folders or bare prefixes, in the order of the documents.

    A part ends with the document that reaches `tokens_per_part`; None makes one part of all.

    Raises:
        UsageError: The output exists or another process makes it, inputs have a part in common, or the inputs were made
            with different tokenizers.
        DataError: An input is damaged, the disk is full, or the folder was deleted, moved or replaced meanwhile.
    """
    if os.path.lexists(output):
        raise UsageError(f"{output} exists. It stays as it is: choose another --output, or delete it.")
    parts = _all_parts(inputs)
    source = _common_source(inputs, tokens_per_part)
    _require_apart(output, parts)
    try:
        with partial_folder(output) as held:
            _empty(held.folder)
            finished = _write(held.folder, parts, tokens_per_part, done)
            if source is not None:
                finish_source(held.folder, *source)
            held.require()
            require_parts(held.folder, len(finished), sum(part.tokens for part in finished))
            held.publish(output)
    except OSError as error:
        raise DataError(
            f"{output}: cannot be written ({error}). The inputs are untouched: make room or repair the file "
            "system, then run the same command again."
        ) from error
    return finished


def _require_apart(output: Path, parts: Sequence[Part]) -> None:
    """Refuse to empty an input.

    Raises:
        UsageError: A part lies in the folder in which the output is written.
    """
    partial = output.with_name(output.name + STAGING_SUFFIX).resolve()
    for part in parts:
        folder = part.prefix.resolve().parent
        if folder == partial:
            raise UsageError(
                f"{output} is written in {partial.name}, which is read: it would be changed. Choose another --output."
            )


def _empty(partial: Path) -> None:
    """Remove what a killed call has left.

    Raises:
        UsageError: There is something else.
    """
    found = [path for path in partial.iterdir() if path.name != LOCK_FILE]
    for path in found:
        if not _OWN_NAME.fullmatch(path.name) or (path.is_dir() and not path.is_symlink()):
            raise UsageError(
                f"{partial} is not left over from a merge: it holds {path.name!r}. Move it away, or choose another "
                "--output."
            )
    for path in found:
        path.unlink()


def without_record(inputs: Sequence[Path]) -> list[Path]:
    """Return the inputs of which no record says what made them: then none can be written of the output."""
    return [path for path in inputs if read_source(path) is None]


def _all_parts(inputs: Sequence[Path]) -> list[Part]:
    """Return the parts of all inputs, each of them once.

    Raises:
        UsageError: Two inputs have a part in common.
    """
    parts: list[Part] = []
    owners: dict[Path, Path] = {}
    for path in inputs:
        for part in parts_of(path):
            file = part.bin_path.resolve()
            if file in owners:
                first = owners[file]
                named = f"{path} is named twice"
                if first.resolve() != path.resolve():
                    named = f"{first} and {path} have {part.bin_path.name} in common"
                raise UsageError(f"{named}: its documents would be doubled. Name every channel and part once.")
            owners[file] = path
            parts.append(part)
    return parts


def _write(folder: Path, parts: Sequence[Part], tokens_per_part: int | None, done: Progress) -> list[FinishedPart]:
    dtype, has_provenance = _widest(parts), any(part.provenance_path.exists() for part in parts)
    finished: list[FinishedPart] = []
    writer: PartWriter | None = None
    try:
        for run in _runs_of_documents(parts, tokens_per_part, done):
            writer = writer or PartWriter(folder, len(finished), dtype, has_provenance=has_provenance)
            writer.add_documents(run.tokens, run.lengths)
            writer.add_provenance(run.provenance)
            if tokens_per_part is not None and writer.num_tokens >= tokens_per_part:
                finished.append(writer.finish())
                writer = None
        # Empty documents at the very end are left out: a part without a token cannot be mapped.
        if writer is not None and writer.num_tokens:
            finished.append(writer.finish())
            writer = None
    finally:
        if writer is not None:
            writer.close()
    return finished


def _widest(parts: Sequence[Part]) -> np.dtype[np.generic]:
    """Return the number format of the output: the widest of the inputs."""
    kinds = {dtype_of(part) for part in parts}
    other = kinds - {"uint16", "int32"}
    if other:
        raise DataError(
            f"a part holds tokens as {', '.join(sorted(other))}; merged are uint16 and int32, which `harness data "
            "tokenize` and Megatron-LM write. Make the part again."
        )
    return np.dtype("int32" if "int32" in kinds else "uint16").newbyteorder("<")


class _Run(NamedTuple):
    """Some documents of a part."""

    tokens: NDArray[np.integer]
    lengths: NDArray[np.int64]
    provenance: Iterator[Provenance]


def _runs_of_documents(parts: Sequence[Part], tokens_per_part: int | None, done: Progress) -> Iterator[_Run]:
    """Yield documents, never past the document with which a part of the output ends."""
    in_part = 0
    for part in parts:
        with closing(all_of_part(part)) as provenance:
            opened = open_part(part)
            digest = xxhash.xxh3_64()
            lengths = opened.table.lengths.astype(np.int64)
            ends = np.cumsum(lengths)
            first = 0
            while first < len(lengths):
                before = int(ends[first - 1]) if first else 0
                room = TOKENS_AT_ONCE if tokens_per_part is None else min(TOKENS_AT_ONCE, tokens_per_part - in_part)
                # The document that reaches the limit is the last of the run.
                last = min(int(np.searchsorted(ends, before + room, side="left")), len(ends) - 1)
                tokens = opened.tokens[before : int(ends[last])]
                digest.update(tokens.data.cast("B") if len(tokens) else b"")
                yield _Run(tokens, lengths[first : last + 1], islice(provenance, last + 1 - first))
                in_part += len(tokens)
                in_part = 0 if tokens_per_part is not None and in_part >= tokens_per_part else in_part
                done(len(tokens) * opened.header.token_type.num_bytes)
                first = last + 1
            _check_hash(opened, digest.hexdigest())


def _check_hash(opened: OpenPart, found: str) -> None:
    if opened.part.xxh3 is not None and found != opened.part.xxh3:
        raise DataError(
            f"{opened.part.bin_path} was altered: its hash is {found}, but {opened.part.xxh3} in the list of parts. "
            "Nothing was merged. Copy or make the part again."
        )


def _common_source(inputs: Sequence[Path], tokens_per_part: int | None) -> tuple[Source, Totals] | None:
    """Return the source that all inputs have in common, and its counts; None if one of them records no source."""
    recorded = [read_source(path) for path in inputs]
    known = [(path, source) for path, source in zip(inputs, recorded, strict=True) if source is not None]
    for path, found in known[1:]:
        first_path, first = known[0]
        one, other = found.source, first.source
        if not one.tokenizer.is_same_as(other.tokenizer):
            raise UsageError(
                f"{path} and {first_path} were not made alike: their tokenizers are {one.tokenizer} and "
                f"{other.tokenizer}. Only channels of one tokenizer can be merged."
            )
        for key, verb in (("end_of_document_id", "end"), ("begin_of_document_id", "begin")):
            if getattr(one, key) != getattr(other, key):
                raise UsageError(
                    f"{path} and {first_path} were not made alike: documents {verb} with {getattr(one, key)} and "
                    f"{getattr(other, key)}. Only channels with the same symbols can be merged."
                )
    for path, found in known:
        if found.finished is None:
            raise UsageError(
                f"{path} is not finished: the call that makes it still runs, or was interrupted. Run it again to its "
                "end, then merge."
            )
    if not known or len(known) < len(recorded):
        return None
    files = tuple(entry for _, found in known for entry in found.inputs)
    merged: Source = replace(known[0][1].source, inputs=files, tokens_per_part=tokens_per_part or 0)
    return merged, reduce(Totals.plus, [found.finished for _, found in known if found.finished])
