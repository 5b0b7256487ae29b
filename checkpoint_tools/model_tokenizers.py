"""The tokenizers of a Hugging Face model's folder, and the one that training goes on with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_tools.foreign_files import is_there, read_whole
from harness.errors import HarnessError, UsageError
from harness.run.checkpoints.for_export import MAX_BYTES
from harness.text import listed
from harness.tokenizers.belonging_files import names_in_model
from harness.tokenizers.document_symbols import SETTINGS_FILE
from harness.tokenizers.identity import (
    OTHER_TOKENIZERS,
    TokenizerIdentity,
    difference,
    identity_of,
    relation_to,
)
from harness.tokenizers.recognise import tokenizer_files
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer
from harness.tokenizers.tokenizer_file import parse_described

_FIRST = "tokenizer.json"
"""The file that transformers takes before all others."""
_ADDED = "added_tokens.json"
_ID = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True)
class ModelTokenizers:
    """The tokenizers that a converted model records."""

    named: Tokenizer | None = None
    """The one that was named in place of the folder's own."""
    own: tuple[TokenizerIdentity, ...] = ()
    """Of the folder's files, the one that transformers reads first."""
    path: Path | None = None
    """File of the one that training goes on with; None if none can be opened, or the model has too few rows for it."""
    warnings: tuple[str, ...] = ()

    def fingerprint(self) -> dict[str, Any]:
        """Return the part of a checkpoint's fingerprint by which a run knows its tokenizer."""
        known = (identity_of(self.named),) if self.named is not None else self.own
        others = [identity.as_json() for identity in known[1:]]
        first = {"tokenizer": known[0].as_json()} if known else {}
        return first | ({OTHER_TOKENIZERS: others} if others else {})


def look_at_tokenizers(folder: Path, named: Path | None, num_rows: int) -> ModelTokenizers:
    """Return the tokenizers of a model's folder. With `named` training goes on with that one.

    Args:
        folder: The model's folder.
        named: A tokenizer that grew from the model's own, or is the same.
        num_rows: Rows of the converted model's vocabulary.

    Raises:
        UsageError: The named one is another tokenizer than the model's own, or has more ids than rows.
        DataError: The named one cannot be opened.
    """
    warnings: list[str] = []
    opened: list[Tokenizer] = []
    broken: list[str] = []
    for file in sorted(tokenizer_files(folder), key=lambda file: (file.name != _FIRST, file.name)):
        try:
            opened.append(open_tokenizer(file, needs_end=False))
        except HarnessError as error:
            warnings.append(f"{file.name} was not looked at: {error}")
            broken.append(file.name)
    own = tuple(map(identity_of, opened))
    warnings += _different(opened, own)
    if named is None:
        warnings += _in_place_of(broken, opened) if opened else _none_recorded(folder)
        warnings += _added_beyond(folder, max(num_rows, opened[0].vocab_size if opened else 0), num_rows)
        if opened and opened[0].vocab_size > num_rows:
            warnings.append(
                f"{opened[0].path.name} has {opened[0].vocab_size} ids, the model {num_rows} rows: to train with all "
                f"of them, convert with --vocab-size {opened[0].vocab_size}"
            )
        path = opened[0].path if opened and opened[0].vocab_size <= num_rows else None
        return ModelTokenizers(own=own, path=path, warnings=tuple(warnings))
    return _named(open_tokenizer(named, needs_end=False), own, warnings, num_rows)


def _named(
    tokenizer: Tokenizer, own: Sequence[TokenizerIdentity], warnings: Sequence[str], num_rows: int
) -> ModelTokenizers:
    relations = [relation_to(identity, tokenizer) for identity in own]
    if own and set(relations) == {"other"}:
        raise UsageError(
            f"--tokenizer {tokenizer.path} is another tokenizer than the model's own, {own[0]}: "
            f"{difference(own[0], tokenizer)}. The model would read other text. Give the model's own, or one that grew "
            "from it (harness data extend-tokenizer)."
        )
    if tokenizer.vocab_size > num_rows:
        raise UsageError(
            f"--tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, the model {num_rows} rows. Give "
            f"--vocab-size {tokenizer.vocab_size} (or more)."
        )
    notes = list(warnings)
    if not own:
        notes.append(f"the folder has no tokenizer that {tokenizer.path} could be compared with")
    elif "same" not in relations:
        before = own[relations.index("grown")]
        notes.append(
            f"the tokenizer grew from {before.vocab_size} to {tokenizer.vocab_size} ids; the old ids mean what they "
            "meant"
        )
    return ModelTokenizers(named=tokenizer, own=tuple(own), path=tokenizer.path, warnings=tuple(notes))


def _in_place_of(broken: Sequence[str], opened: Sequence[Tokenizer]) -> Iterator[str]:
    if _FIRST in broken:
        yield (
            f"{opened[0].path.name} is recorded as the model's tokenizer, because {_FIRST}, which transformers reads "
            f"first, cannot be read. It may be another one: fetch {_FIRST} again and convert anew, or make sure"
        )


def _none_recorded(folder: Path) -> Iterator[str]:
    if names := names_in_model(folder):
        apart = {"vocab.json", "merges.txt"} <= set(names) and _FIRST not in names
        split = "vocab.json and merges.txt do not say how text is split"
        why = split if apart else "none is a tokenizer that can be read"
        yield (
            f"no tokenizer could be recorded for the model ({listed(names)}: {why}), so no run is held to it. Save it "
            f"with transformers as a {_FIRST}, or name one with --tokenizer"
        )


def _added_beyond(folder: Path, told_up_to: int, num_rows: int) -> Iterator[str]:
    """Yield a remark if added tokens have ids for which the model has no rows, and no other remark says so."""
    found = {
        name: max(_added_ids(name, read_whole(folder / name, MAX_BYTES)), default=-1)
        for name in (_ADDED, SETTINGS_FILE)
        if is_there(folder / name)
    }
    num_ids = max(found.values(), default=-1) + 1
    if num_ids > told_up_to:
        names = [name for name, most in found.items() if most >= num_rows]
        yield (
            f"with its added tokens ({listed(names)}) the tokenizer has {num_ids} ids, the model {num_rows} "
            f"rows: to train with all of them, convert with --vocab-size {num_ids}"
        )


def _added_ids(name: str, content: bytes) -> Iterator[int]:
    """Yield the ids of the added tokens in one of the files beside a tokenizer; what is no such id is passed over."""
    try:
        described = parse_described(content)
    except ValueError:
        return
    if not isinstance(described, dict):
        return
    decoder = described.get("added_tokens_decoder")
    ids = described.values() if name == _ADDED else decoder if isinstance(decoder, dict) else ()
    yield from (int(number) for number in map(str, ids) if _ID.fullmatch(number))


def _different(opened: Sequence[Tokenizer], own: Sequence[TokenizerIdentity]) -> Iterator[str]:
    for tokenizer, identity in zip(opened[1:], own[1:], strict=True):
        if not own[0].is_same_as(identity) and relation_to(identity, opened[0]) == "other":
            yield (
                f"{opened[0].path.name} and {tokenizer.path.name} are different tokenizers "
                f"({difference(identity, opened[0])}). transformers reads {opened[0].path.name}; a run may go on with "
                "either, so make sure which one made the model"
            )
