"""An alert: a thing that people should know of a run, with its severity and where to look."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.run.field_types import Count, Flag, Seconds, Text


class Severity(StrEnum):
    """The weight of a thing for people."""

    INFO = "info"
    """Good to know; nobody needs to do anything."""
    WARNING = "warning"
    """Somebody should look when there is time."""
    PAGE = "page"
    """Nothing gets better by itself, and GPUs wait or are wasted: somebody should look now."""

    def is_at_least(self, other: Severity) -> bool:
        """Return whether it matters as much as the other one, or more."""
        order = list(Severity)
        return order.index(self) >= order.index(other)


class Kind(StrEnum):
    """The kind of an alert."""

    FAILED = "failed"
    """The run ended and does not come back by itself."""
    GONE = "gone"
    """The run ended without a word."""
    HELD = "held"
    """The job waits in the queue, and Slurm or an administrator holds it."""
    HUNG = "hung"
    """No rank makes progress, and nothing is done about it."""
    STALLED = "stalled"
    """Nothing is recorded, though the run is alive."""
    SAVE_FAILED = "save-failed"
    """A checkpoint could not be saved."""
    REFUSED = "refused"
    """The run did not carry out a command of the watcher."""
    ADVICE = "advice"
    """A rollback or a stop is due, and the watcher may not command it."""
    SPIKE = "spike"
    """The loss of a channel moved away from its forecast, or is not finite."""
    DRIFT = "drift"
    """The loss of a channel moves away slowly."""
    ORDER = "order"
    """The watcher commanded a rollback."""
    ROUTERS = "routers"
    """Routers of experts have collapsed."""
    DATA = "data"
    """Parts of the data are missing, refused or damaged."""
    FILE = "file"
    """A file of the run was lost."""
    DISK = "disk"
    """The disk is nearly full."""
    KILLED = "killed"
    """A hung launch is killed, to come back."""
    RESTART = "restart"
    """The run failed, and its job comes back."""
    WATCHER = "watcher"
    """The watcher has lost its memory."""
    ROLLBACK = "rollback"
    """The run returned to an earlier checkpoint."""
    ATTRIBUTED = "attributed"
    """A spike was traced to its documents, or not."""
    STOPPED = "stopped"
    """A person or the scheduler ended the run."""
    FINISHED = "finished"
    """The run has made all its steps."""
    TEST = "test"
    """Somebody asked for a message, to see whether alerts arrive."""


SEVERITIES = {
    Severity.PAGE: (
        Kind.FAILED,
        Kind.GONE,
        Kind.HELD,
        Kind.HUNG,
        Kind.STALLED,
        Kind.SAVE_FAILED,
        Kind.REFUSED,
        Kind.ADVICE,
        Kind.TEST,
    ),
    Severity.WARNING: (
        Kind.SPIKE,
        Kind.DRIFT,
        Kind.ORDER,
        Kind.ROUTERS,
        Kind.DATA,
        Kind.FILE,
        Kind.DISK,
        Kind.KILLED,
        Kind.RESTART,
        Kind.WATCHER,
    ),
    Severity.INFO: (Kind.ROLLBACK, Kind.ATTRIBUTED, Kind.STOPPED, Kind.FINISHED),
}
"""Kinds by how much they matter."""
ENDED, NO_PROGRESS, HELD_BACK = "ended", "no-progress", "held"
"""Keys of the alerts that a run has ended, makes no progress, or does not start, whoever saw it first."""
ENDED_KINDS = (Kind.FAILED, Kind.GONE, Kind.HELD, Kind.HUNG, Kind.STALLED, Kind.KILLED, Kind.RESTART)
"""Kinds of alerts that are over when the run trains again."""
OVER_KINDS = (Kind.FAILED, Kind.GONE, Kind.STOPPED, Kind.FINISHED)
"""Kinds of alerts after which nothing happens in a run by itself."""
_SEVERITY_OF = {kind: severity for severity, kinds in SEVERITIES.items() for kind in kinds}


class Alert(BaseModel):
    """Something that people should know."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    key: Text
    """The thing that it is about. As long as a thing lasts, it is one alert, however often it is seen."""
    kind: Kind
    text: Text
    lasts: Flag = False
    """True for a thing that will be over at some time, which is told too."""
    step: Count | None = None
    channel: Text | None = None
    look: Text | None = None
    """Command, or file, with which a person begins."""

    @property
    def severity(self) -> Severity:
        """Return how much it matters."""
        return _SEVERITY_OF[self.kind]


Word = Literal["open", "again", "unacknowledged", "over"]
"""The word of a message about its thing: it began; it became worse; nobody has acknowledged it; it is over."""


class RunName(BaseModel):
    """The run that messages are about. Runs of one configuration have the same name, and different folders."""

    model_config = ConfigDict(frozen=True)

    name: Text
    folder: Text
    """Absolute."""


class Message(BaseModel):
    """One message to people about a thing."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    number: Count
    word: Word
    run: RunName
    alert: Alert
    made: Seconds
    """Time at which it was made, in seconds since 1970."""
    since: Seconds
    """Time at which the thing began."""
    more: Count = 0
    """Number of further things of its kind that were not told by messages of their own."""
    not_before: Seconds = 0.0
    """Time before which it waits, because people have quiet hours."""
    places: tuple[Text, ...] = ()
    """Places that still have to take it."""
    references: dict[str, str] = {}
    """Names that places have given to the first message about the thing."""

    @property
    def title(self) -> str:
        """Return the first line: how much it matters, the run, and what happened."""
        severity = self.alert.severity
        mark = {"over": "over", "unacknowledged": f"{severity}, nobody has acknowledged it"}.get(self.word, severity)
        return f"[{mark}] {self.run.name}: {self.alert.kind}"

    @property
    def body(self) -> str:
        """Return the lines below the title."""
        alert = self.alert
        more = f" ({self.more} more of this kind since the last message)" if self.more else ""
        at = [f"step {alert.step:,}"] if alert.step is not None else []
        at += [f"channel {alert.channel}"] if alert.channel is not None else []
        lines = [alert.text + more, f"run: {self.run.folder}" + (f" ({', '.join(at)})" if at else "")]
        if alert.look is not None:
            lines.append(f"look: {alert.look}")
        if self.word != "over" and alert.severity is Severity.PAGE and alert.kind is not Kind.TEST:
            lines.append(f"acknowledge: harness alerts {self.run.folder} --acknowledge {alert.key}")
        return "\n".join(lines)

    @property
    def in_one_text(self) -> str:
        """Return title and body."""
        return f"{self.title}\n{self.body}"

    def to_json(self) -> dict[str, object]:
        """Return all of it, for programs."""
        alert = self.alert
        fields = {
            "text": self.in_one_text,
            "state": "over" if self.word == "over" else "open",
            "word": self.word,
            "kind": alert.kind,
            "severity": alert.severity,
            "key": alert.key,
            "run": self.run.name,
            "directory": self.run.folder,
            "what": alert.text,
            "step": alert.step,
            "channel": alert.channel,
            "look": alert.look,
            "time": self.made,
            "since": self.since,
        }
        return {name: value for name, value in fields.items() if value is not None}
