"""The small files of a mean: of the last checkpoint that has them; those of two different tokenizers have no mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoint_tools.our_tensors import OurTensors
from checkpoint_tools.tokenizer_files import kept_tokenizer
from harness.errors import CheckpointError
from harness.run.checkpoints.for_export import (
    ORIGIN_FOLDER,
    TOKENIZER_FOLDER,
    Belongings,
    belongings_of,
    in_folder,
    put_into,
)
from harness.text import listed
from harness.tokenizers.belonging_files import settings_of
from harness.tokenizers.identity import OTHER_TOKENIZERS, recorded_tokenizers


@dataclass(frozen=True, kw_only=True)
class MeanBelongings:
    """The small files of a mean, and the record of its tokenizer."""

    files: Belongings
    fingerprint: Mapping[str, Any]
    """The keys of a fingerprint that tell the tokenizers; empty if no checkpoint has a record."""
    warnings: tuple[str, ...] = ()


def belongings_of_mean(opened: Sequence[OurTensors]) -> MeanBelongings:
    """Return the small files of the mean of checkpoints.

    Raises:
        CheckpointError: They have different tokenizers, or the disk refuses.
    """
    found = [belongings_of(ours.path, ours.manifest) for ours in opened]
    folders = {
        TOKENIZER_FOLDER: [kept_tokenizer(ours, own) for ours, own in zip(opened, found, strict=True)],
        ORIGIN_FOLDER: [in_folder(own, ORIGIN_FOLDER) for own in found],
    }
    _require_one_tokenizer(opened, folders[TOKENIZER_FOLDER])
    files: dict[str, bytes] = {}
    unequal: dict[tuple[int, int], list[str]] = {}
    for folder, of_each in folders.items():
        place = max((number for number, own in enumerate(of_each) if own), default=None)
        if place is not None:
            files |= put_into(folder, of_each[place])
            for number, own in enumerate(of_each):
                names = [f"{folder}/{name}" for name in _unequal(own, of_each[place])]
                unequal[number, place] = [*unequal.get((number, place), []), *names]
    warnings = list(_different(opened, unequal))
    records = [ours.manifest.fingerprint for ours in opened if recorded_tokenizers(ours.manifest.fingerprint)]
    last = records[-1] if records else {}
    kept = {key: last[key] for key in ("tokenizer", OTHER_TOKENIZERS) if last.get(key)}
    if kept and not any(folders[TOKENIZER_FOLDER]):
        warnings.append("the tokenizer of the checkpoints was not found: name it to convert to-hf by --tokenizer")
    return MeanBelongings(files=files, fingerprint=kept, warnings=tuple(warnings))


def _require_one_tokenizer(opened: Sequence[OurTensors], tokenizers: Sequence[Mapping[str, bytes]]) -> None:
    """Refuse a checkpoint whose tokenizer is not that of one before it: by the record, and by the files without one.

    Raises:
        CheckpointError: There is one.
    """
    known = [(ours, found[0]) for ours in opened if (found := recorded_tokenizers(ours.manifest.fingerprint))]
    for ours, identity in known[1:]:
        if not known[0][1].is_same_as(identity):
            _refuse(known[0][0], ours, f"{known[0][1]}, there {identity}")
    unknown = [
        (ours, {name: content for name, content in own.items() if name not in settings_of(own)})
        for ours, own in zip(opened, tokenizers, strict=True)
        if own and not recorded_tokenizers(ours.manifest.fingerprint)
    ]
    for ours, files in unknown[1:]:
        if names := _unequal(unknown[0][1], files):
            _refuse(unknown[0][0], ours, f"{listed(names)} differ")


def _refuse(one: OurTensors, other: OurTensors, what: str) -> None:
    raise CheckpointError(
        f"{other.path} has another tokenizer than {one.path}: {what}. Their ids mean other text, so they have no mean. "
        "Average checkpoints of one tokenizer."
    )


def _different(opened: Sequence[OurTensors], unequal: Mapping[tuple[int, int], Sequence[str]]) -> Iterator[str]:
    """Yield remarks on checkpoints that hold other files than the one whose files go with the mean."""
    for (number, place), names in sorted(unequal.items()):
        if names:
            which = "the last, " if place == len(opened) - 1 else ""
            yield (
                f"{listed(sorted(names))} of {opened[number].path} and {opened[place].path} differ; the mean has those "
                f"of {which}{opened[place].path}"
            )


def _unequal(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
