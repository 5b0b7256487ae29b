"""Changes of the data order while a run goes on: phases, adopted parts, quarantined documents.

Every change names the position in the sample order from which it holds; earlier samples stay as they are. A sample is
determined by the phases of the plan, the seed, and the changes before its position.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from harness.errors import CheckpointError
from harness.run.field_types import Count


class _Change(BaseModel):
    """A change with strict types: it is read from checkpoints and journals that may be damaged."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    kind: str
    position: Count

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return self.model_dump(mode="json")


class PhaseBegun(_Change):
    """From here on samples are those of another phase of the plan."""

    kind: Literal["phase"] = "phase"
    phase: Count
    """Number of the phase in the plan, from 0."""
    consumed_samples: Count
    """Samples of the run when the phase began. The samples left in the phase follow from it."""


class PartsAdopted(_Change):
    """From here on more parts of a channel are used: the first `num_parts` of its list."""

    kind: Literal["parts"] = "parts"
    channel: str
    num_parts: Annotated[Count, Field(ge=1)]
    digest: str
    """XXH3 of the entries of those parts in the list (see `harness.channels.channels.parts_digest`)."""


class DocumentsQuarantined(_Change):
    """From here on documents of a part are in no sample. If it is lifted, they may be again."""

    kind: Literal["quarantine"] = "quarantine"
    channel: str
    part: str
    documents: tuple[Count, ...]
    """By their numbers in the part, rising."""
    tokens: tuple[Count, ...]
    """Length of each document."""
    is_lifted: bool = False
    """True if an earlier quarantine of these documents is taken back."""

    @model_validator(mode="after")
    def _makes_sense(self) -> DocumentsQuarantined:
        if len(self.documents) != len(self.tokens) or list(self.documents) != sorted(set(self.documents)):
            raise ValueError("documents rise, and each has its number of tokens")
        return self


Change = PhaseBegun | PartsAdopted | DocumentsQuarantined
History = tuple[Change, ...]
"""Changes in the order in which they were entered. Positions never fall."""
_CHANGE: TypeAdapter[Change] = TypeAdapter(Annotated[Change, Field(discriminator="kind")])


class KnownHistory(tuple[Change, ...]):
    """A history of which each thing that every step asks for is found once. It may be long, and cursors are keys."""

    @cached_property
    def phase(self) -> int:
        """Number of the phase that began last; 0 before the first change of phase."""
        return phase_of(self)

    @cached_property
    def phase_begun_at(self) -> int:
        """Samples that the run had consumed when that phase began."""
        begun = (change.consumed_samples for change in reversed(self) if isinstance(change, PhaseBegun))
        return next(begun, 0)

    @cached_property
    def num_parts(self) -> Mapping[str, int]:
        """Number of adopted parts by channel."""
        return num_parts_of(self)

    @cached_property
    def as_json(self) -> tuple[dict[str, Any], ...]:
        """The changes as plain JSON values."""
        return tuple(change.to_json() for change in self)

    def with_change(self, change: Change) -> KnownHistory:
        """Return the history with a further change behind those at its position; at the end it looks at no other."""
        place = bisect_right(self, change.position, key=lambda each: each.position)
        longer = KnownHistory((*self[:place], change, *self[place:]))
        if place == len(self):
            begun = (change.phase, change.consumed_samples) if isinstance(change, PhaseBegun) else None
            longer.phase, longer.phase_begun_at = begun or (self.phase, self.phase_begun_at)
            further = {change.channel: change.num_parts} if isinstance(change, PartsAdopted) else {}
            longer.num_parts = {**self.num_parts, **further}
            longer.as_json = (*self.as_json, change.to_json())
        return longer

    def __hash__(self) -> int:
        """Return a hash that costs the same for a long history. It is not that of a plain tuple of the same changes."""
        return hash((len(self), self[-1:]))


def phase_of(history: Sequence[Change]) -> int:
    """Return the number of the phase that began last; 0 before the first change of phase."""
    return next((change.phase for change in reversed(history) if isinstance(change, PhaseBegun)), 0)


def num_parts_of(history: Iterable[Change]) -> dict[str, int]:
    """Return the number of adopted parts by channel, from the last change of each channel."""
    return {change.channel: change.num_parts for change in history if isinstance(change, PartsAdopted)}


def last_adoption_of(history: Sequence[Change], channel: str) -> PartsAdopted | None:
    """Return the last change that adopted parts of a channel, or None."""
    found = (each for each in reversed(history) if isinstance(each, PartsAdopted) and each.channel == channel)
    return next(found, None)


def num_same(one: History, other: History) -> int:
    """Return how many changes two histories begin with that are the same. Quick if one goes on from the other."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(number for number in range(shorter) if one[number] != other[number])


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


def change_from_json(value: object) -> Change:
    """Return the change that `to_json` wrote.

    Raises:
        ValueError: It is none.
    """
    change = _CHANGE.validate_json(json.dumps(value))
    if change.to_json() != value:
        raise ValueError("a field has another type than a change has")
    return change


def require_growing(history: Iterable[Change]) -> None:
    """Require that no change takes parts away again that an earlier one adopted.

    Raises:
        ValueError: One does.
    """
    used: dict[str, int] = {}
    for change in history:
        if isinstance(change, PartsAdopted):
            if change.num_parts < used.get(change.channel, 1):
                raise ValueError(f"{change.channel} has {change.num_parts} parts after {used[change.channel]}")
            used[change.channel] = change.num_parts


def history_from_json(values: Sequence[Mapping[str, Any]]) -> History:
    """Return the changes that `to_json` wrote.

    Raises:
        CheckpointError: They are not changes, or out of order.
    """
    try:
        history = tuple(map(change_from_json, values))
        require_growing(history)
    except (TypeError, ValueError) as error:
        raise CheckpointError(_unreadable(values)) from error
    positions = [change.position for change in history]
    if positions != sorted(positions):
        raise CheckpointError(_unreadable(values))
    return history


def _unreadable(values: object) -> str:
    return (
        f"the history of the order of the data in the checkpoint is unreadable: {str(values)[:200]}. Expected changes "
        "of kind phase, parts or quarantine with rising positions. Resume from another checkpoint."
    )
