"""Changes of the data order while a run goes on: phases, adopted parts, quarantined documents.

Every change names the position in the sample order from which it holds; earlier samples stay as they are. A sample is
determined by the phases of the plan, the seed, and the changes before its position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class PhaseBegun:
    """From here on samples are those of another phase of the plan."""

    position: int
    phase: int
    """Number of the phase in the plan, from 0."""
    consumed_samples: int
    """Samples of the run when the phase began. The samples left in the phase follow from it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": "phase",
            "position": self.position,
            "phase": self.phase,
            "consumed_samples": self.consumed_samples,
        }


@dataclass(frozen=True, kw_only=True)
class PartsAdopted:
    """From here on more parts of a channel are used: the first `num_parts` of its list."""

    position: int
    channel: str
    num_parts: int
    digest: str
    """XXH3 of the entries of those parts in the list (see `harness.data.files.channels.parts_digest`)."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": "parts",
            "position": self.position,
            "channel": self.channel,
            "num_parts": self.num_parts,
            "digest": self.digest,
        }


@dataclass(frozen=True, kw_only=True)
class DocumentsQuarantined:
    """From here on documents of a part are in no sample. If it is lifted, they may be again."""

    position: int
    channel: str
    part: str
    documents: tuple[int, ...]
    """By their numbers in the part, rising."""
    tokens: tuple[int, ...]
    """Length of each document."""
    is_lifted: bool = False
    """True if an earlier quarantine of these documents is taken back."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": "quarantine",
            "position": self.position,
            "channel": self.channel,
            "part": self.part,
            "documents": list(self.documents),
            "tokens": list(self.tokens),
            "is_lifted": self.is_lifted,
        }


Change = PhaseBegun | PartsAdopted | DocumentsQuarantined
History = tuple[Change, ...]
"""Changes in the order in which they were entered. Positions never fall."""


def phase_of(history: Sequence[Change]) -> int:
    """Return the number of the phase that began last; 0 before the first change of phase."""
    return next((change.phase for change in reversed(history) if isinstance(change, PhaseBegun)), 0)


def num_parts_of(history: Iterable[Change]) -> dict[str, int]:
    """Return the number of adopted parts by channel, from the last change of each channel."""
    return {change.channel: change.num_parts for change in history if isinstance(change, PartsAdopted)}


def adoptions_of(history: Iterable[Change], channel: str) -> list[PartsAdopted]:
    """Return the changes that adopted parts of a channel."""
    return [change for change in history if isinstance(change, PartsAdopted) and change.channel == channel]


def quarantines_of(
    history: Iterable[Change], channel: str, part: str, documents: set[int]
) -> list[DocumentsQuarantined]:
    """Return the changes that put some of these documents of a part into quarantine."""
    return [
        change
        for change in history
        if isinstance(change, DocumentsQuarantined)
        and (change.channel, change.part, change.is_lifted) == (channel, part, False)
        and not documents.isdisjoint(change.documents)
    ]


def quarantined_in(history: Iterable[Change]) -> dict[tuple[str, str], dict[int, int]]:
    """Return the documents in quarantine after these changes: {(channel, part): {document: tokens}}."""
    held: dict[tuple[str, str], dict[int, int]] = {}
    for change in history:
        if isinstance(change, DocumentsQuarantined):
            documents = held.setdefault((change.channel, change.part), {})
            for document, tokens in zip(change.documents, change.tokens, strict=True):
                if change.is_lifted:
                    documents.pop(document, None)
                else:
                    documents[document] = tokens
    return {place: dict(sorted(documents.items())) for place, documents in held.items() if documents}


def history_from_json(values: Sequence[Mapping[str, Any]]) -> History:
    """Return the changes that `to_json` wrote.

    Raises:
        CheckpointError: They are not changes, or out of order.
    """
    try:
        history = tuple(_change(dict(value)) for value in values)
        is_sound = [change.to_json() for change in history] == list(values) and _is_plausible(history)
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(_unreadable(values)) from error
    if not is_sound:
        raise CheckpointError(_unreadable(values))
    return history


def _change(values: dict[str, Any]) -> Change:
    kind = values.pop("kind")
    if kind == "phase":
        return PhaseBegun(**values)
    if kind == "parts":
        return PartsAdopted(**values)
    if kind != "quarantine":
        raise ValueError(f"unknown kind of change {kind!r}")
    documents, tokens = tuple(values.pop("documents")), tuple(values.pop("tokens"))
    return DocumentsQuarantined(documents=documents, tokens=tokens, **values)


def _is_plausible(history: History) -> bool:
    positions = [change.position for change in history]
    return positions == sorted(positions) and all(_is_sound(change) for change in history)


def _is_sound(change: Change) -> bool:
    numbers: tuple[object, ...]
    words: tuple[object, ...] = ()
    match change:
        case PhaseBegun():
            numbers = (change.phase, change.consumed_samples)
        case PartsAdopted():
            numbers, words = (change.num_parts,), (change.channel, change.digest)
        case DocumentsQuarantined():
            numbers, words = (*change.documents, *change.tokens), (change.channel, change.part)
            if type(change.is_lifted) is not bool or len(change.documents) != len(change.tokens):
                return False
            if list(change.documents) != sorted(set(change.documents)):
                return False
    counts = (change.position, *numbers)
    return all(type(n) is int and n >= 0 for n in counts) and all(type(word) is str for word in words)


def _unreadable(values: object) -> str:
    return (
        f"the history of the order of the data in the checkpoint is unreadable: {str(values)[:200]}. Expected changes "
        "of kind phase, parts or quarantine with rising positions. Resume from another checkpoint."
    )
