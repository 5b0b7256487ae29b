"""Opens the tokenizer of a run, and holds the checkpoint and the channels against it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.channels.made_with import compare_channels, paths_in_use
from harness.config.schema import Config
from harness.errors import CheckpointError, DataError
from harness.run.checkpoints.manifest import Manifest
from harness.tokenizers.identity import TokenizerIdentity, difference, identity_of, recorded_tokenizers, relation_to
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

_HINT = (
    "\nIf the tokenizer of the channels grew from that of the checkpoint, name it as data.tokenizer: then the two are "
    "compared."
)


@dataclass(frozen=True, kw_only=True)
class RunTokenizer:
    """The tokenizer whose ids a run trains on."""

    opened: Tokenizer | None
    """None if the configuration names none."""
    identity: TokenizerIdentity | None
    """Of the one that is opened, else of the checkpoint that the run goes on from."""
    notes: tuple[str, ...] = ()
    """Differences that are allowed, for people."""


def open_run_tokenizer(config: Config, start: Manifest | None) -> RunTokenizer:
    """Open the tokenizer of a run that goes on from a checkpoint, or from none.

    Raises:
        CheckpointError: The checkpoint was trained with another tokenizer.
        DataError: It cannot be opened, has more ids than the model has rows, or a channel was made with another one.
    """
    recorded = () if start is None else recorded_tokenizers(start.fingerprint)
    opened = open_tokenizer(config.data.tokenizer, needs_end=False) if config.data.tokenizer else None
    notes: list[str] = []
    if opened is not None:
        _require_rows(config, opened, start)
        notes += _compared(opened, recorded)
        identity: TokenizerIdentity | None = _known(opened, recorded) or identity_of(opened)
    else:
        identity = recorded[0] if recorded else None
    name = "data.tokenizer" if opened is not None else "the checkpoint"
    channels = compare_channels(paths_in_use(config), opened or identity, name)
    if channels.problems:
        hint = "" if opened or not recorded else _HINT
        raise DataError("\n".join(channels.problems) + f".{hint}")
    return RunTokenizer(opened=opened, identity=identity, notes=(*notes, *channels.notes))


def _known(opened: Tokenizer, recorded: tuple[TokenizerIdentity, ...]) -> TokenizerIdentity | None:
    """Return the identity that the checkpoint has of this very file: to compute it takes a second or two."""
    return next((each for each in recorded if each.xxh3 == opened.file_hash and each.pieces is not None), None)


def _compared(opened: Tokenizer, recorded: tuple[TokenizerIdentity, ...]) -> Iterator[str]:
    """Yield a note if the tokenizer grew since the checkpoint was saved.

    Raises:
        CheckpointError: It is another one.
    """
    relations = [relation_to(identity, opened) for identity in recorded]
    if "same" in relations or not recorded:
        return
    if "grown" in relations:
        before = recorded[relations.index("grown")]
        yield (
            f"the tokenizer grew from {before.vocab_size:,} to {opened.vocab_size:,} ids since the checkpoint was "
            "saved; the old ids mean what they meant"
        )
        return
    raise CheckpointError(
        f"The checkpoint was trained with another tokenizer, {recorded[0]}: {difference(recorded[0], opened)}. Name "
        "the one with which it was trained, or one that grew from it, as data.tokenizer; or give another --run-dir to "
        "train this configuration from the start."
    )


def _require_rows(config: Config, tokenizer: Tokenizer, start: Manifest | None) -> None:
    rows, wanted = config.model.vocab_size, tokenizer.vocab_size
    if wanted <= rows:
        return
    if start is None:
        advice = f"Set model.vocab_size to {wanted} or more."
    elif "data" not in start.fingerprint:
        advice = (
            f"The run begins from a converted model, which has as many rows: convert it again, with more, by harness "
            f"convert from-hf MODEL OUT --vocab-size {wanted}"
        )
    else:
        advice = (
            f"The weights of the run have as many rows. To go on with more, export them with harness convert to-hf, "
            f"and convert those with harness convert from-hf MODEL OUT --vocab-size {wanted}"
        )
    raise DataError(
        f"data.tokenizer: {config.data.tokenizer} has {wanted} token ids, but model.vocab_size is {rows}. {advice}"
    )
