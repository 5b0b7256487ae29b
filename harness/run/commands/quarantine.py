"""What a quarantine order asks for, and its JSON form.

```
{"kind": "quarantine", "documents": {"zh/part-00007": [8812, 8813]}, "reason": "garbled"}
{"kind": "quarantine", "documents": {"zh/part-00007": [8812]}, "lift": true}
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("documents", "lift")
MAX_DOCUMENTS = 100_000
_MAX_NAME = 300


class UnreadableQuarantineError(ValueError):
    """A quarantine order that names no documents; the text says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class QuarantineRequest:
    """Keep documents out of every later sample, or let them in again."""

    documents: Mapping[str, tuple[int, ...]]
    """Numbers of documents in their part, rising, by `channel/part`."""
    lift: bool = False
    """Take an earlier quarantine of them back, for samples that are not drawn yet."""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"documents": {place: list(numbers) for place, numbers in self.documents.items()}, "lift": self.lift}


def parse_quarantine_request(fields: Mapping[str, object]) -> QuarantineRequest:
    """The request in the fields of an order.

    Raises:
        UnreadableQuarantineError: A field has a wrong type or value.
    """
    documents, lift = fields.get("documents"), fields.get("lift", False)
    if not isinstance(documents, dict) or not documents:
        raise UnreadableQuarantineError(
            f'"documents" is {str(documents)[:80]}; it is an object such as {{"zh/part-00007": [8812, 8813]}}'
        )
    if type(lift) is not bool:
        raise UnreadableQuarantineError(f'"lift" is {lift!r}; it is true or false')
    found = {place: _numbers(place, numbers) for place, numbers in documents.items()}
    if sum(map(len, found.values())) > MAX_DOCUMENTS:
        raise UnreadableQuarantineError(f'"documents" names more than {MAX_DOCUMENTS:,} documents; give several orders')
    return QuarantineRequest(documents=found, lift=lift)


def _numbers(place: str, numbers: object) -> tuple[int, ...]:
    channel, slash, part = place.partition("/")
    if not (channel and slash and part) or "/" in part or len(place) > _MAX_NAME or not place.isprintable():
        raise UnreadableQuarantineError(f'"documents" names {place[:80]!r}; a part is named like "zh/part-00007"')
    if not isinstance(numbers, list) or not numbers or any(type(each) is not int or each < 0 for each in numbers):
        raise UnreadableQuarantineError(
            f'"documents" has {str(numbers)[:80]} for {place}; it is a list of whole numbers from 0 on'
        )
    return tuple(sorted(set(numbers)))
