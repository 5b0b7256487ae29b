"""The types of the events in `events.jsonl`.

Keys keep the names that they have in the files of older runs: the command behind an event is called `order` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from harness.run.event_base import Event, StepEvent
from harness.run.event_fields import Channel, Channels, CommandName, Documents, ExitCode, NamedDocuments, Reason
from harness.run.field_types import Count, Flag, Number, NumberOrNan, Range, Rank, Seconds, Text
from harness.run.held_out_events import BaseLosses, PhaseLosses


class Started(StepEvent):
    """Training began from initial weights."""

    kind: Literal["started"] = "started"
    stages: Mapping[Text, Seconds] | None = None
    """Seconds that rank 0 took for the stages of the start, in their order."""


class Resumed(StepEvent):
    """A launch went on from a checkpoint."""

    kind: Literal["resumed"] = "resumed"
    path: Text = ""
    """The checkpoint."""
    from_snapshot: Flag = False
    """True if it went on from a snapshot of the ranks, which is later than the checkpoint."""
    stages: Mapping[Text, Seconds] | None = None
    """Seconds that rank 0 took for the stages of the start, in their order."""


class PassedOver(StepEvent):
    """A checkpoint was found, and not used to go on from."""

    kind: Literal["passed-over"] = "passed-over"
    reason: Reason


class Exit(StepEvent):
    """The trainer left."""

    kind: Literal["exit"] = "exit"
    exit_code: ExitCode
    reason: Reason = ""
    next_phase: Text | None = None
    """Name of the phase that needs another number of ranks, where that is why it left."""


class LaunchEnded(Event):
    """The launch of a Slurm job ended, with the decision about the job."""

    kind: Literal["launch-ended"] = "launch-ended"
    job_id: Text | Count | None = None
    """Slurm's number of the job."""
    exit_code: ExitCode
    action: Text
    """`requeue` or `stop`."""
    alert: Flag = False
    """True if a person must look."""
    reason: Reason = ""
    cause: Text | None = None
    """The first failure, in words; None if there was none."""


class Saved(StepEvent):
    """A checkpoint was published."""

    kind: Literal["saved"] = "saved"
    path: Text
    """The checkpoint."""
    seconds: Seconds
    """Counted from the beginning of the save."""
    stages: Mapping[Text, Seconds] | None = None
    """Seconds that rank 0 took for the stages of the save, in their order. Training goes on beside some of them where
    saves are asynchronous: `write` and `publish`."""


class SaveFailed(StepEvent):
    """A checkpoint could not be written; older ones are untouched."""

    kind: Literal["save-failed"] = "save-failed"
    reason: Reason


class SaveWaited(StepEvent):
    """Training waited for a save that should have run beside it."""

    kind: Literal["save-waited"] = "save-waited"
    reason: Reason


class Released(StepEvent):
    """A suspect checkpoint became clean, because no alarm followed it."""

    kind: Literal["released"] = "released"
    checkpoint: Text
    """Name of its folder."""


class Marked(StepEvent):
    """A command entered a health into checkpoints."""

    kind: Literal["marked-clean", "marked-suspect"]
    checkpoints: tuple[Text, ...]
    """Names of their folders."""
    command: CommandName


class RolledBack(StepEvent):
    """The run returned to an earlier checkpoint; `step` and `attempt` are those that it goes on with."""

    kind: Literal["rollback"] = "rollback"
    command: CommandName = ""
    reason: Reason = ""
    from_step: Count | None = None
    """Step from which the run returned."""
    from_attempt: Count | None = None
    """Attempt from which the run returned."""
    skip_windows: tuple[Range, ...] = ()
    """Positions [start, stop) of all samples that the run skips from now on."""
    skip_steps: Range | None = None
    """First and last step whose samples this rollback skips, where it was given steps."""
    from_memory: Flag = False
    """True if the state came from a snapshot in the memory of the hosts."""
    stages: Mapping[Text, Seconds] | None = None
    """Seconds that rank 0 took for the stages of the rollback, in their order."""


class RollbackRefused(StepEvent):
    """A rollback could not be carried out; nothing changed."""

    kind: Literal["rollback-refused"] = "rollback-refused"
    command: CommandName = ""
    reason: Text | None = None
    """Why, in words."""


class RollbackDone(StepEvent):
    """A command to roll back was found that had been carried out before a crash."""

    kind: Literal["rollback-done"] = "rollback-done"
    command: CommandName = ""


class Evidence(StepEvent):
    """The losses of the samples of earlier steps were computed again and written down."""

    kind: Literal["evidence"] = "evidence"
    steps: Range
    """First and last step."""
    path: Text
    """The file."""
    command: CommandName


class EvidenceRefused(StepEvent):
    """A command for evidence could not be carried out."""

    kind: Literal["evidence-refused"] = "evidence-refused"
    reason: Reason
    command: CommandName


class Quarantined(StepEvent):
    """Documents were put into quarantine, or taken out of it."""

    kind: Literal["quarantine"] = "quarantine"
    documents: Documents
    lift: Flag = False
    """True if they were taken out of it."""
    command: CommandName
    reason: Reason = ""
    position: Count
    """Position in the sample order from which the change holds."""


class QuarantineRefused(StepEvent):
    """A command about documents could not be carried out."""

    kind: Literal["quarantine-refused"] = "quarantine-refused"
    documents: Documents
    lift: Flag = False
    """True if they were to be taken out of quarantine."""
    command: CommandName
    reason: Reason = ""
    problem: Text
    """The reason."""


class Adopted(StepEvent):
    """Parts that arrived while training went on were added to the sample order."""

    kind: Literal["adopted"] = "adopted"
    channel: Channel
    parts: tuple[Text, ...]
    """Names of the parts."""
    tokens: Count
    """Tokens in the parts."""
    position: Count
    """Position in the sample order from which they are used."""


class PartsRefused(StepEvent):
    """Parts that arrived were not used."""

    kind: Literal["parts-refused"] = "parts-refused"
    reason: Reason


class PartDamaged(StepEvent):
    """A part in use, or about to be, is not what it was when it was made, or when the run first read it."""

    kind: Literal["part-damaged"] = "part-damaged"
    channel: Channel
    part: str
    """Name of the part."""
    reason: Reason
    used_since: int | None = None
    """First step of this launch that was trained on samples of the part; None if there was none."""


class WaitingForParts(StepEvent):
    """No data is left, and training waits for further parts."""

    kind: Literal["waiting-for-parts"] = "waiting-for-parts"
    channels: Channels


class PartsCame(StepEvent):
    """The parts that training waited for arrived."""

    kind: Literal["parts-came"] = "parts-came"
    channels: Text
    """Names of the channels."""
    seconds: Seconds
    """Time that training waited."""


class PhaseBegun(StepEvent):
    """A training phase begins with the next step."""

    kind: Literal["phase"] = "phase"
    phase: Text
    """Name of the phase."""
    before: Text
    """Name of the phase that has ended."""
    seq_length: Count
    """Tokens in a sample."""
    global_batch_size: Count
    """Samples in a step."""
    shares: Mapping[Text, Number]
    """Share of each channel, by name."""
    rotary_base: Number
    """Base of the rotary positions."""
    same_processes: Flag
    """True if the same processes train it; False if another launch does."""


class FileLost(StepEvent):
    """A file that the trainer writes was removed, replaced or cut by somebody else; it goes on in a new one."""

    kind: Literal["file-lost"] = "file-lost"
    file: Text
    """Name of the file in the run's folder."""
    reason: Reason


class SlowRanks(StepEvent):
    """Some ranks compute more slowly than the others."""

    kind: Literal["slow-ranks"] = "slow-ranks"
    reason: Reason


class ResumeSuspect(StepEvent):
    """The first losses after a resume are higher than those before the checkpoint explain."""

    kind: Literal["resume-suspect"] = "resume-suspect"
    reason: Reason


class NotFinite(StepEvent):
    """A step was not applied, because its loss or gradient was not finite."""

    kind: Literal["nan"] = "nan"
    loss: NumberOrNan
    """Loss of the step; null where it is not finite."""
    grad_norm: NumberOrNan
    """Norm of the gradient; null where it is not finite."""
    channels: Channels
    ranks: tuple[Rank, ...]
    """Ranks on which the loss or the gradient was not finite."""
    evidence: Text
    """File that names the samples."""


class Seen(StepEvent):
    """The detector of the spike watch reported something about a curve."""

    kind: Literal["spike", "suspect", "benign", "drift", "non-finite"]
    channel: Channel
    direction: Literal["up", "down"]
    """Side of the forecast on which the curve is."""
    start: Count
    """First step of the episode."""
    end: Count
    """Last step so far at which the curve was off."""
    z: Number
    """Largest size so far, in standard deviations of the noise."""
    height: Number
    """Largest distance from the forecast so far, in nats."""


class Attributed(StepEvent):
    """The watcher weighed evidence of an episode."""

    kind: Literal["attributed"] = "attributed"
    start: Count
    """First step of the episode."""
    channel: Channel
    dirty: Flag
    """True if it points to documents."""
    reason: Reason
    documents: tuple[NamedDocuments, ...] = ()
    """The documents that stand out, worst first."""
    evidence: Text
    """File with the evidence."""


class RollbackOrdered(StepEvent):
    """The watcher gave the command to roll back."""

    kind: Literal["rollback-ordered"] = "rollback-ordered"
    reason: Reason
    to_step: Count
    """Step of the checkpoint to return to."""
    skip_steps: tuple[Count, ...]
    """First and last step whose samples are to be skipped."""
    command: CommandName


class StopOrdered(StepEvent):
    """The watcher gave the command to stop for a person."""

    kind: Literal["stop-ordered"] = "stop-ordered"
    reason: Reason
    command: CommandName
    report: Text
    """File with what the person needs to know."""


class Hung(StepEvent):
    """A launch made no progress for too long."""

    kind: Literal["hung"] = "hung"
    reason: Reason
    outcome: Text
    """The reaction to it."""


AnyEvent = (
    Started | Resumed | PassedOver | Exit | LaunchEnded | Saved | SaveFailed | SaveWaited | Released | Marked
    | RolledBack | RollbackRefused | RollbackDone | Evidence | EvidenceRefused | Quarantined | QuarantineRefused
    | Adopted | PartsRefused | PartDamaged | WaitingForParts | PartsCame | PhaseBegun | SlowRanks | ResumeSuspect
    | NotFinite | BaseLosses | PhaseLosses | FileLost | Seen | Attributed | RollbackOrdered | StopOrdered | Hung
)  # fmt: skip
"""Every event that this version writes."""
