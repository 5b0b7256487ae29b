"""The files that each checkpoint of a run holds for an export: of its tokenizer, and of the model it began from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.for_export import (
    ORIGIN_FOLDER,
    TOKENIZER_FOLDER,
    Belongings,
    belongings_of,
    in_folder,
    put_into,
)
from harness.text import listed
from harness.tokenizers.belonging_files import files_of_tokenizer, lost_settings, settings_of, with_settings_of
from harness.tokenizers.identity import recorded_tokenizers, relation_to
from harness.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RunBelongings:
    """The belongings of a run's checkpoints."""

    files: Belongings = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Remarks on files of which there are two, for people."""


def belongings_for(tokenizer: Tokenizer | None, entry: Checkpoint | None) -> RunBelongings:
    """Return the belongings of a run that goes on from a checkpoint, or from none.

    A checkpoint's files of the same tokenizer go on: `data.tokenizer` may be a bare copy of one of them.

    Raises:
        CheckpointError: Those of the checkpoint cannot be read.
        DataError: Those of the tokenizer cannot be read.
    """
    before = {} if entry is None else belongings_of(entry.path, entry.manifest)
    if tokenizer is None:
        return RunBelongings(files=before)
    kept, own = in_folder(before, TOKENIZER_FOLDER), files_of_tokenizer(tokenizer)
    # Of several in a model's folder, the first is the one that transformers reads.
    recorded = () if entry is None else recorded_tokenizers(entry.manifest.fingerprint)
    is_same = bool(recorded) and relation_to(recorded[0], tokenizer) == "same"
    files = kept if kept and is_same else with_settings_of(kept, own)
    origin = put_into(ORIGIN_FOLDER, in_folder(before, ORIGIN_FOLDER))
    return RunBelongings(
        files={**origin, **put_into(TOKENIZER_FOLDER, files)}, notes=_notes(tokenizer, kept, own, files)
    )


def _notes(
    tokenizer: Tokenizer, kept: Mapping[str, bytes], own: Mapping[str, bytes], files: Mapping[str, bytes]
) -> tuple[str, ...]:
    if not kept:
        return ()
    unused = sorted(name for name in own if files.get(name) != own[name])
    dropped = sorted(name for name in kept.keys() - settings_of(kept).keys() if files.get(name) != kept[name])
    changed = lost_settings(kept, files)
    notes = []
    if unused:
        notes.append(
            f"the checkpoint's own {listed(unused)} go on with the run, not those beside {tokenizer.path}: they are of "
            f"the same tokenizer. To export with yours, give to-hf --tokenizer {tokenizer.path}"
        )
    if dropped:
        notes.append(
            f"{listed(dropped)} in the checkpoint belong to its tokenizer; from here on checkpoints have the files of "
            f"{tokenizer.path}"
        )
    if changed:
        notes.append(
            f"of the settings in the checkpoint {listed(changed)} are from here on those of {tokenizer.path}; the "
            "others stay"
        )
    return tuple(notes)
