"""The tokenizers of a Hugging Face model's folder, and the one that training goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UsageError
from harness.tokenizers.identity import (
    OTHER_TOKENIZERS,
    TokenizerIdentity,
    difference,
    identity_of,
    relation_to,
)
from harness.tokenizers.recognise import tokenizer_files
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer


@dataclass(frozen=True, kw_only=True)
class ModelTokenizers:
    """The tokenizers that a converted model records."""

    named: Tokenizer | None = None
    """The one that was named in place of the folder's own."""
    own: tuple[TokenizerIdentity, ...] = ()
    """Of the folder's files, the one that transformers reads first."""
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
    # transformers takes tokenizer.json before all others.
    for file in sorted(tokenizer_files(folder), key=lambda file: (file.name != "tokenizer.json", file.name)):
        try:
            opened.append(open_tokenizer(file, needs_end=False))
        except HarnessError as error:
            warnings.append(f"{file.name} was not looked at: {error}")
    own = tuple(map(identity_of, opened))
    warnings += _different(opened, own)
    if named is None:
        if opened and opened[0].vocab_size > num_rows:
            warnings.append(
                f"{opened[0].path.name} has {opened[0].vocab_size} ids, the model {num_rows} rows: to train with all "
                f"of them, convert with --vocab-size {opened[0].vocab_size}"
            )
        return ModelTokenizers(own=own, warnings=tuple(warnings))
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
    return ModelTokenizers(named=tokenizer, own=tuple(own), warnings=tuple(notes))


def _different(opened: Sequence[Tokenizer], own: Sequence[TokenizerIdentity]) -> Iterator[str]:
    for tokenizer, identity in zip(opened[1:], own[1:], strict=True):
        if not own[0].is_same_as(identity) and relation_to(identity, opened[0]) == "other":
            yield (
                f"{opened[0].path.name} and {tokenizer.path.name} are different tokenizers "
                f"({difference(identity, opened[0])}). transformers reads {opened[0].path.name}; a run may go on with "
                "either, so make sure which one made the model"
            )
