"""What an evidence order asks for, and its JSON form: `{"kind": "evidence", "steps": [40117, 40120]}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("steps",)
MAX_STEPS = 64
"""Every step costs a forward pass."""


class UnreadableEvidenceError(ValueError):
    """An evidence order that asks for nothing, or for too much; the text says what."""


@dataclass(frozen=True, kw_only=True)
class EvidenceRequest:
    """Compute the losses of the samples of some steps again, with the weights of now."""

    steps: tuple[int, int]
    """First and last step, of the line that is trained now."""

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            UnreadableEvidenceError: With what is wrong and what is allowed.
        """
        first, last = self.steps
        if not 1 <= first <= last < first + MAX_STEPS:
            raise UnreadableEvidenceError(
                f'"steps" is {list(self.steps)}; it is [first, last], from 1 on, at most {MAX_STEPS} steps'
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"steps": list(self.steps)}


def parse_evidence_request(fields: Mapping[str, object]) -> EvidenceRequest:
    """The request in the fields of an order.

    Raises:
        UnreadableEvidenceError: A field has a wrong type, or the request makes no sense.
    """
    steps = fields.get("steps")
    if not isinstance(steps, list) or len(steps) != 2 or not all(type(step) is int for step in steps):
        raise UnreadableEvidenceError(f'"steps" is {steps!r}; it is a list of two whole numbers, first and last step')
    return EvidenceRequest(steps=(steps[0], steps[1]))
