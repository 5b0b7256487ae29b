"""What a rollback order asks for, and its JSON form.

```
{"kind": "rollback", "to_step": 40000, "skip_steps": [40101, 40300], "reason": "garbled part-00007"}
{"kind": "rollback", "before_step": 40120, "skip_samples": [41062400, 41267200],
 "learning_rate_factor": 0.7, "adam_betas": [0.9, 0.9], "for_steps": 500}
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("to_step", "before_step", "skip_steps", "skip_samples", "learning_rate_factor", "adam_betas", "for_steps")


class UnreadableRequestError(ValueError):
    """A rollback order that asks for nothing, or for something impossible; the text says what."""


@dataclass(frozen=True, kw_only=True)
class RollbackRequest:
    """Return to a checkpoint, and skip what made the return necessary."""

    to_step: int | None = None
    """The checkpoint of this step …"""
    before_step: int | None = None
    """… or the newest clean one of an earlier step."""
    skip_steps: tuple[int, int] | None = None
    """First and last step whose samples are never trained on again, as the run counted them until now …"""
    skip_samples: tuple[int, int] | None = None
    """… or positions [start, stop) in the run's sample order."""
    learning_rate_factor: float = 1.0
    """Factor of the learning rate for `for_steps` steps."""
    adam_betas: tuple[float, float] | None = None
    """Betas of Adam for `for_steps` steps."""
    for_steps: int | None = None
    """How many steps after the rollback the two changes above last."""

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            UnreadableRequestError: With what is wrong and what is allowed.
        """
        if (self.to_step is None) == (self.before_step is None):
            raise UnreadableRequestError('give exactly one of "to_step" and "before_step"')
        if self.skip_steps is not None and self.skip_samples is not None:
            raise UnreadableRequestError('give at most one of "skip_steps" and "skip_samples"')
        if self.skip_steps is not None and not 1 <= self.skip_steps[0] <= self.skip_steps[1]:
            raise UnreadableRequestError(f'"skip_steps" is {list(self.skip_steps)}; it is [first, last], from 1 on')
        if self.skip_samples is not None and not 0 <= self.skip_samples[0] < self.skip_samples[1]:
            raise UnreadableRequestError(f'"skip_samples" is {list(self.skip_samples)}; it is [start, stop)')
        if not 0 < self.learning_rate_factor <= 10:
            raise UnreadableRequestError(f'"learning_rate_factor" is {self.learning_rate_factor}; it is in (0, 10]')
        if self.adam_betas is not None and not all(0 <= beta < 1 for beta in self.adam_betas):
            raise UnreadableRequestError(f'"adam_betas" are {list(self.adam_betas)}; both are in [0, 1)')
        changes_optimizer = self.learning_rate_factor != 1.0 or self.adam_betas is not None
        if changes_optimizer != (self.for_steps is not None) or (self.for_steps or 1) < 1:
            raise UnreadableRequestError(
                '"for_steps" (from 1 on) belongs to "learning_rate_factor" and "adam_betas", and they to it'
            )

    def to_json(self) -> dict[str, Any]:
        """The fields that say something, as JSON values."""
        values = {key: getattr(self, key) for key in KEYS}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {key: value for key, value in plain.items() if value is not None and (key, value) != (KEYS[4], 1.0)}


def parse_request(fields: Mapping[str, object]) -> RollbackRequest:
    """The request in the fields of an order.

    Raises:
        UnreadableRequestError: A field has a wrong type, or the request makes no sense.
    """
    return RollbackRequest(
        to_step=_whole(fields, "to_step"),
        before_step=_whole(fields, "before_step"),
        skip_steps=_pair(fields, "skip_steps", whole=True),
        skip_samples=_pair(fields, "skip_samples", whole=True),
        learning_rate_factor=_number(fields.get("learning_rate_factor", 1.0), "learning_rate_factor"),
        adam_betas=_pair(fields, "adam_betas", whole=False),
        for_steps=_whole(fields, "for_steps"),
    )


def _whole(fields: Mapping[str, object], key: str) -> int | None:
    value = fields.get(key)
    if value is not None and (type(value) is not int or value < 0):
        raise UnreadableRequestError(f'"{key}" is {value!r}; it is a whole number from 0 on')
    return value if isinstance(value, int) else None


def _number(value: object, key: str) -> float:
    if type(value) not in (int, float):
        raise UnreadableRequestError(f'"{key}" is {value!r}; it is a number')
    assert isinstance(value, int | float), "its type was checked"
    return float(value)


def _pair(fields: Mapping[str, object], key: str, *, whole: bool) -> Any:  # noqa: ANN401 (ints or floats)
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(item) in (int, float) for item in value):
        raise UnreadableRequestError(f'"{key}" is {value!r}; it is a list of two numbers')
    if whole and not all(type(item) is int for item in value):
        raise UnreadableRequestError(f'"{key}" is {value!r}; both are whole numbers')
    return (value[0], value[1]) if whole else (float(value[0]), float(value[1]))
