"""The requests that a command can make of a run, one type for each kind, and their JSON form.

```
{"kind": "save"}    {"kind": "stop"}    {"kind": "save-and-stop"}    {"kind": "stop-for-person"}
{"kind": "rollback", "to_step": 40000, "skip_steps": [40101, 40300]}
{"kind": "rollback", "before_step": 40120, "skip_samples": [41062400, 41267200],
 "learning_rate_factor": 0.7, "adam_betas": [0.9, 0.9], "for_steps": 500}
{"kind": "evidence", "steps": [40117, 40120]}
{"kind": "mark", "checkpoints": ["step_0040000"], "health": "suspect"}
{"kind": "quarantine", "documents": {"zh/part-00007": [8812, 8813]}, "lift": true}
```

A new kind is a word in `harness.run.commands.kinds`, a type here, and an entry in the table of
`harness.train.commands.answers` (or in `harness.train.decide`, if it interrupts training): docs/recipes/command.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.run.commands.kinds import CommandKind

MAX_EVIDENCE_STEPS = 64
"""Every step costs a forward pass."""
MAX_DOCUMENTS = 100_000
_MAX_CHECKPOINTS = 1000
_MOST_COUNT = 2**53
"""Steps and positions: up to here a float holds every whole number, and sums stay within 64 bits."""
_MAX_PLACE = 300
_MOST_SHOWN = 80
_CHECKPOINT_NAME = re.compile(r"step_[0-9]{7,15}(\.[0-9]{1,15})?")


class UnreadableCommandError(ValueError):
    """A request with a missing or impossible field, or a file that is not a command. The text says what is allowed."""


class Expected(NamedTuple):
    """Allowed values of a field in words, for errors."""

    text: str


Step = Annotated[int, Field(ge=0, le=_MOST_COUNT)]
_WHOLE = Expected("it is a whole number from 0 to 2^53")
_NUMBER = Expected("it is a number")
_TWO_STEPS = Expected("it is a list of two whole numbers, first and last step")

_RANGE = Expected("it is a list of two whole numbers, [start, stop)")


class Request(BaseModel):
    """A request with strict types: a typing error must not become another request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    kind: CommandKind
    is_plain: ClassVar[bool] = False
    """True if an empty file named after the kind is enough."""
    interrupts: ClassVar[bool] = True
    """True if training does not just go on afterwards, so that waits and evaluations end for the command."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their default as JSON values, without the kind."""
        return self.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)


class Save(Request):
    """Save a checkpoint and go on."""

    kind: Literal[CommandKind.SAVE] = CommandKind.SAVE
    is_plain = True
    interrupts = False


class Stop(Request):
    """Leave at the end of this step without saving."""

    kind: Literal[CommandKind.STOP] = CommandKind.STOP
    is_plain = True


class SaveAndStop(Request):
    """Save a checkpoint, then leave."""

    kind: Literal[CommandKind.SAVE_AND_STOP] = CommandKind.SAVE_AND_STOP
    is_plain = True


class StopForPerson(Request):
    """Leave at the end of this step without saving, with the exit code that says that a person must look."""

    kind: Literal[CommandKind.STOP_FOR_PERSON] = CommandKind.STOP_FOR_PERSON


class Rollback(Request):
    """Return to a checkpoint, and skip the samples that caused the trouble."""

    kind: Literal[CommandKind.ROLLBACK] = CommandKind.ROLLBACK
    to_step: Annotated[Step | None, _WHOLE] = None
    """The checkpoint of this step …"""
    before_step: Annotated[Step | None, _WHOLE] = None
    """… or the newest clean one of an earlier step."""
    skip_steps: Annotated[tuple[Step, Step] | None, _TWO_STEPS] = None
    """First and last step whose samples are never trained on again, as the run has counted steps until now …"""
    skip_samples: Annotated[tuple[Step, Step] | None, Expected("it is a list of two whole numbers, [start, stop)")] = (
        None
    )
    """… or positions [start, stop) in the run's sample order."""
    learning_rate_factor: Annotated[float, _NUMBER] = 1.0
    """Factor of the learning rate for `for_steps` steps."""
    adam_betas: Annotated[tuple[float, float] | None, Expected("it is a list of two numbers")] = None
    """Betas of Adam for `for_steps` steps."""
    for_steps: Annotated[Step | None, _WHOLE] = None
    """Number of steps after the rollback for which the two changes above last."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Rollback:
        if (self.to_step is None) == (self.before_step is None):
            raise ValueError('give exactly one of "to_step" and "before_step"')
        if self.skip_steps is not None and self.skip_samples is not None:
            raise ValueError('give at most one of "skip_steps" and "skip_samples"')
        if self.skip_steps is not None and not 1 <= self.skip_steps[0] <= self.skip_steps[1]:
            raise ValueError(f'"skip_steps" is {list(self.skip_steps)}; it is [first, last], from 1 on')
        if self.skip_samples is not None and not 0 <= self.skip_samples[0] < self.skip_samples[1]:
            raise ValueError(f'"skip_samples" is {list(self.skip_samples)}; it is [start, stop)')
        if not 0 < self.learning_rate_factor <= 10:
            raise ValueError(f'"learning_rate_factor" is {self.learning_rate_factor}; it is in (0, 10]')
        if self.adam_betas is not None and not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f'"adam_betas" are {list(self.adam_betas)}; both are in [0, 1)')
        changes_optimizer = self.learning_rate_factor != 1.0 or self.adam_betas is not None
        if changes_optimizer != (self.for_steps is not None) or self.for_steps == 0:
            raise ValueError(
                '"for_steps" (from 1 on) belongs to "learning_rate_factor" and "adam_betas", and they to it'
            )
        return self


class Evidence(Request):
    """Compute the losses of the samples of some steps again with the current weights, and write them down."""

    kind: Literal[CommandKind.EVIDENCE] = CommandKind.EVIDENCE
    interrupts = False
    steps: Annotated[tuple[Step, Step], _TWO_STEPS]
    """First and last step, of the line that is being trained."""

    @field_validator("steps")
    @classmethod
    def _are_few(cls, steps: tuple[int, int]) -> tuple[int, int]:
        first, last = steps
        if not 1 <= first <= last < first + MAX_EVIDENCE_STEPS:
            raise ValueError(
                f'"steps" is {list(steps)}; it is [first, last], from 1 on, at most {MAX_EVIDENCE_STEPS} steps'
            )
        return steps


class Mark(Request):
    """Enter a health into the manifests of checkpoints. Abandoned ones stay as they are.

    Only the training process writes manifests, so others that learn something about a checkpoint ask it to.
    """

    kind: Literal[CommandKind.MARK] = CommandKind.MARK
    interrupts = False
    checkpoints: Annotated[
        tuple[str, ...],
        Field(min_length=1, max_length=_MAX_CHECKPOINTS),
        Expected(f"it is a list of 1 to {_MAX_CHECKPOINTS} folder names"),
    ]
    """Names of their folders."""
    health: Annotated[Literal["clean", "suspect"], Expected('allowed: "clean", "suspect"')]

    @field_validator("checkpoints")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _CHECKPOINT_NAME.fullmatch(name):
                raise ValueError(f'"checkpoints" names {_short(name)}; a checkpoint is called like "step_0040000"')
        return names


class Quarantine(Request):
    """Exclude documents from every later sample, or allow them again."""

    kind: Literal[CommandKind.QUARANTINE] = CommandKind.QUARANTINE
    interrupts = False
    documents: Annotated[
        dict[str, tuple[int, ...]],
        Expected('it is an object such as {"zh/part-00007": [8812, 8813]}'),
    ]
    """Numbers of documents in their part, rising, by `channel/part`."""
    lift: Annotated[bool, Expected("it is true or false")] = False
    """Take an earlier quarantine of them back, for samples that are not drawn yet."""

    @field_validator("documents", mode="before")
    @classmethod
    def _are_documents(cls, documents: object) -> object:
        if not isinstance(documents, Mapping) or not documents:
            shown = str(documents)[:80]
            raise ValueError(f'"documents" is {shown}; it is an object such as {{"zh/part-00007": [8812, 8813]}}')
        found = {place: _numbers(place, numbers) for place, numbers in documents.items()}
        if sum(map(len, found.values())) > MAX_DOCUMENTS:
            raise ValueError(f'"documents" names more than {MAX_DOCUMENTS:,} documents; give several commands')
        return found


AnyRequest = Save | Stop | SaveAndStop | StopForPerson | Rollback | Evidence | Mark | Quarantine
REQUESTS: dict[CommandKind, type[AnyRequest]] = {
    request.model_fields["kind"].default: request for request in get_args(AnyRequest)
}
"""The type of each kind's request."""
PLAIN_KINDS = tuple(kind for kind, request in REQUESTS.items() if request.is_plain)
"""The kinds that an empty file can give."""


def fields_of(kind: CommandKind) -> tuple[str, ...]:
    """Return the names of the fields of a command of a kind, without the reason."""
    return tuple(name for name in REQUESTS[kind].model_fields if name != "kind")


def make_request(kind: CommandKind, fields: Mapping[str, object]) -> AnyRequest:
    """Return the request of a kind with fields that may be JSON values.

    Raises:
        UnreadableCommandError: A field is missing or wrong, or together they make no sense.
    """
    try:
        return REQUESTS[kind].model_validate_json(json.dumps(dict(fields)))
    except ValidationError as error:
        raise UnreadableCommandError(_explained(REQUESTS[kind], fields, error)) from None


def _explained(request: type[Request], fields: Mapping[str, object], error: ValidationError) -> str:
    problem = error.errors()[0]
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    name = str(problem["loc"][0])
    if name not in request.model_fields:
        return f"unknown key {_short(name)}"
    expected = [each.text for each in request.model_fields[name].metadata if isinstance(each, Expected)]
    return f'"{name}" is {_short(fields.get(name))}; {expected[0]}'


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_COUNT


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _numbers(place: object, numbers: object) -> tuple[int, ...]:
    channel, slash, part = str(place).partition("/")
    if not (channel and slash and part) or "/" in part or len(str(place)) > _MAX_PLACE or not str(place).isprintable():
        raise ValueError(f'"documents" names {str(place)[:80]!r}; a part is named like "zh/part-00007"')
    are_numbers = isinstance(numbers, list | tuple) and all(
        type(each) is int and 0 <= each <= _MOST_COUNT for each in numbers
    )
    if not isinstance(numbers, list | tuple) or not numbers or not are_numbers:
        raise ValueError(f'"documents" has {str(numbers)[:80]} for {place}; it is a list of whole numbers from 0 on')
    return tuple(sorted(set(numbers)))
