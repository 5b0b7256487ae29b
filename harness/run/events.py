"""The events of a run: their types, and the reading and writing of `events.jsonl`.

The file has one JSON object a line. `time` (seconds since 1970) and `kind` are always there, `attempt` and `step` in
all but `launch-ended`. Trainer, watcher and launcher append to it, each whole lines in one write. Readers pass
over a line that a crash or a full disk cut off, and a kind that this version does not know. Keys keep the names that
they have in the files of older runs: the command behind an event is called `order` there.
"""

from __future__ import annotations

import json
import time as clock_time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.run.files import append_lines, last_lines

Range = tuple[int, int]
CommandName = Annotated[str, Field(alias="order")]
"""Name of the command's file in `signals/`, or of the operating system's signal."""


class Event(BaseModel):
    """Something that happened to a run."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, use_attribute_docstrings=True)

    time: float = 0.0
    """Seconds since 1970; set when the event is written."""
    kind: str


class StepEvent(Event):
    """An event at a step of an attempt."""

    attempt: int
    step: int
    by: Literal["watch"] | None = None
    """Writer of the event; None for the trainer."""
    id: str | None = None
    """Follows from the cause, so that a watcher that sees the cause again does not write the event twice."""


class Started(StepEvent):
    """Training began from initial weights."""

    kind: Literal["started"] = "started"


class Resumed(StepEvent):
    """A launch went on from a checkpoint."""

    kind: Literal["resumed"] = "resumed"
    path: str = ""
    """The checkpoint."""
    from_snapshot: bool = False
    """True if it went on from a snapshot of the ranks, which is later than the checkpoint."""


class PassedOver(StepEvent):
    """A checkpoint was found, and not used to go on from."""

    kind: Literal["passed-over"] = "passed-over"
    reason: str


class Exit(StepEvent):
    """The trainer left."""

    kind: Literal["exit"] = "exit"
    exit_code: int
    reason: str = ""
    next_phase: str | None = None
    """Name of the phase that needs another number of ranks, where that is why it left."""


class LaunchEnded(Event):
    """The launch of a Slurm job ended, with the decision about the job."""

    kind: Literal["launch-ended"] = "launch-ended"
    job_id: str | int | None = None
    exit_code: int
    action: str
    """`requeue` or `stop`."""
    alert: bool = False
    """True if a person must look."""
    reason: str = ""


class Saved(StepEvent):
    """A checkpoint was published."""

    kind: Literal["saved"] = "saved"
    path: str
    seconds: float
    """Counted from the beginning of the save."""


class SaveFailed(StepEvent):
    """A checkpoint could not be written; older ones are untouched."""

    kind: Literal["save-failed"] = "save-failed"
    reason: str


class SaveWaited(StepEvent):
    """Training waited for a save that should have run beside it."""

    kind: Literal["save-waited"] = "save-waited"
    reason: str


class Released(StepEvent):
    """A suspect checkpoint became clean, because no alarm followed it."""

    kind: Literal["released"] = "released"
    checkpoint: str
    """Name of its folder."""


class Marked(StepEvent):
    """A command entered a health into checkpoints."""

    kind: Literal["marked-clean", "marked-suspect"]
    checkpoints: tuple[str, ...]
    command: CommandName


class RolledBack(StepEvent):
    """The run returned to an earlier checkpoint; `step` and `attempt` are those that it goes on with."""

    kind: Literal["rollback"] = "rollback"
    command: CommandName = ""
    reason: str = ""
    from_step: int | None = None
    from_attempt: int | None = None
    skip_windows: tuple[Range, ...] = ()
    """Positions [start, stop) of all samples that the run skips from now on."""
    from_memory: bool = False
    """True if the state came from a snapshot in the memory of the hosts."""


class RollbackRefused(StepEvent):
    """A rollback could not be carried out; nothing changed."""

    kind: Literal["rollback-refused"] = "rollback-refused"
    command: CommandName = ""
    reason: str | None = None


class RollbackDone(StepEvent):
    """A command to roll back was found that had been carried out before a crash."""

    kind: Literal["rollback-done"] = "rollback-done"
    command: CommandName = ""


class Evidence(StepEvent):
    """The losses of the samples of earlier steps were computed again and written down."""

    kind: Literal["evidence"] = "evidence"
    steps: Range
    """First and last step."""
    path: str
    command: CommandName


class EvidenceRefused(StepEvent):
    """A command for evidence could not be carried out."""

    kind: Literal["evidence-refused"] = "evidence-refused"
    reason: str
    command: CommandName


class Quarantined(StepEvent):
    """Documents were put into quarantine, or taken out of it."""

    kind: Literal["quarantine"] = "quarantine"
    documents: Mapping[str, tuple[int, ...]]
    """Numbers of documents by `channel/part`."""
    lift: bool = False
    """True if they were taken out of it."""
    command: CommandName
    reason: str = ""
    position: int
    """Position in the sample order from which the change holds."""


class QuarantineRefused(StepEvent):
    """A command about documents could not be carried out."""

    kind: Literal["quarantine-refused"] = "quarantine-refused"
    documents: Mapping[str, tuple[int, ...]]
    lift: bool = False
    command: CommandName
    reason: str = ""
    problem: str
    """The reason."""


class Adopted(StepEvent):
    """Parts that arrived while training went on were added to the sample order."""

    kind: Literal["adopted"] = "adopted"
    channel: str
    parts: tuple[str, ...]
    tokens: int
    position: int
    """Position in the sample order from which they are used."""


class PartsRefused(StepEvent):
    """Parts that arrived were not used."""

    kind: Literal["parts-refused"] = "parts-refused"
    reason: str


class WaitingForParts(StepEvent):
    """No data is left, and training waits for further parts."""

    kind: Literal["waiting-for-parts"] = "waiting-for-parts"
    channels: tuple[str, ...]


class PartsCame(StepEvent):
    """The parts that training waited for arrived."""

    kind: Literal["parts-came"] = "parts-came"
    channels: str
    seconds: float
    """Time that training waited."""


class PhaseBegun(StepEvent):
    """A training phase begins with the next step."""

    kind: Literal["phase"] = "phase"
    phase: str
    before: str
    """Name of the phase that has ended."""
    seq_length: int
    global_batch_size: int
    shares: Mapping[str, float]
    rotary_base: float
    same_processes: bool
    """True if the same processes train it; False if another launch does."""


class SlowRanks(StepEvent):
    """Some ranks compute more slowly than the others."""

    kind: Literal["slow-ranks"] = "slow-ranks"
    reason: str


class ResumeSuspect(StepEvent):
    """The first losses after a resume are higher than those before the checkpoint explain."""

    kind: Literal["resume-suspect"] = "resume-suspect"
    reason: str


class NotFinite(StepEvent):
    """A step was not applied, because its loss or gradient was not finite."""

    kind: Literal["nan"] = "nan"
    loss: float | None
    grad_norm: float | None
    channels: tuple[str, ...]
    ranks: tuple[int, ...]
    evidence: str
    """File that names the samples."""


class Seen(StepEvent):
    """The detector of the spike watch reported something about a curve."""

    kind: Literal["spike", "suspect", "benign", "drift", "non-finite"]
    channel: str
    direction: Literal["up", "down"]
    start: int
    """First step of the episode."""
    end: int
    """Last step so far at which the curve was off."""
    z: float
    """Largest size so far, in standard deviations of the noise."""
    height: float
    """Largest distance from the forecast so far, in nats."""


class Attributed(StepEvent):
    """The watcher weighed evidence of an episode."""

    kind: Literal["attributed"] = "attributed"
    start: int
    channel: str
    dirty: bool
    """True if it points to documents."""
    reason: str
    documents: tuple[Mapping[str, Any], ...] = ()
    evidence: str


class RollbackOrdered(StepEvent):
    """The watcher gave the command to roll back."""

    kind: Literal["rollback-ordered"] = "rollback-ordered"
    reason: str
    to_step: int
    skip_steps: tuple[int, ...]
    command: CommandName


class StopOrdered(StepEvent):
    """The watcher gave the command to stop for a person."""

    kind: Literal["stop-ordered"] = "stop-ordered"
    reason: str
    command: CommandName
    report: str
    """File with what the person needs to know."""


class Hung(StepEvent):
    """A launch made no progress for too long."""

    kind: Literal["hung"] = "hung"
    reason: str
    outcome: str


AnyEvent = (
    Started | Resumed | PassedOver | Exit | LaunchEnded | Saved | SaveFailed | SaveWaited | Released | Marked
    | RolledBack | RollbackRefused | RollbackDone | Evidence | EvidenceRefused | Quarantined | QuarantineRefused
    | Adopted | PartsRefused | WaitingForParts | PartsCame | PhaseBegun | SlowRanks | ResumeSuspect | NotFinite
    | Seen | Attributed | RollbackOrdered | StopOrdered | Hung
)  # fmt: skip
"""Every event that this version writes."""

_TYPES: dict[str, type[Event]] = {
    kind: event for event in get_args(AnyEvent) for kind in get_args(event.model_fields["kind"].annotation)
}
_TAIL_BYTES = 4 * 1024**2


def event_line(event: Event, now: float) -> str:
    """Return the event as it stands in `events.jsonl`, without a line end. Numbers that are not finite are null."""
    dated = event.model_copy(update={"time": round(now, 3)})
    return json.dumps(json.loads(dated.model_dump_json(by_alias=True, exclude_none=True)))


def parse_event(line: str | bytes) -> AnyEvent | None:
    """Return the event in a line, or None if the line is cut off or its kind is unknown to this version."""
    try:
        fields = json.loads(line)
        parsed = _TYPES[fields["kind"]].model_validate(fields)
    except (ValueError, TypeError, KeyError, RecursionError, ValidationError):
        return None
    assert isinstance(parsed, AnyEvent), "the types are those of the union"
    return parsed


def append_event(path: Path, event: Event, clock: Callable[[], float] = clock_time.time) -> None:
    """Append an event to a run's `events.jsonl`.

    Raises:
        OSError: From the disk.
    """
    append_lines(path, [event_line(event, clock())])


def read_events(path: Path, *, after_bytes: int = 0) -> Iterator[AnyEvent]:
    """Yield the events of a file, oldest first, from byte `after_bytes` on. A file that cannot be read has none."""
    try:
        with path.open("rb") as file:
            file.seek(after_bytes)
            for line in file:
                if (event := parse_event(line)) is not None:
                    yield event
    except OSError:
        return


def last_events(path: Path) -> list[AnyEvent]:
    """Return the events in the last megabytes of a file, oldest first. A file that cannot be read has none."""
    return [event for line in last_lines(path, _TAIL_BYTES) if (event := parse_event(line)) is not None]
