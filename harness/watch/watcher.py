"""One look at a run: hear what is new, judge it, and do at most what the policy says.

Between two looks everything is in `Memory`. What a look does is done in an order in which it may be cut off anywhere:
an event, an order and a mark are named after their cause, and the memory is written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.config.schema import Config
from harness.errors import EXIT_FINISHED, EXIT_REQUEUE, EXIT_STOPPED_BY_PERSON, DataError
from harness.metrics import names
from harness.metrics.record import StepRecord, from_json_line
from harness.run_dir import RunDir
from harness.signals.order import OrderKind, Request
from harness.signals.post import is_known, post
from harness.watch.alerts import Alerts
from harness.watch.attribution import attribute, named, read_evidence
from harness.watch.detector import Detector, LossRecord
from harness.watch.follow import new_lines
from harness.watch.journal import WRITER, Journal
from harness.watch.memory import Examination, Memory
from harness.watch.policy import (
    Action,
    Alert,
    AskEvidence,
    KeepTraining,
    PastRollback,
    Rollback,
    Situation,
    Stop,
    decide,
)
from harness.watch.saved import SavedCheckpoints
from harness.watch.situation import (
    due_mark,
    evidence_request,
    policy_settings,
    remember_alarm,
    rollback_request,
    situation,
)
from harness.watch.verdict import ALARMS, TOTAL, Verdict

_EVENT_KINDS = {"confirmed": "spike"}
"""Verdicts that are called otherwise in `events.jsonl`."""
_UNREMARKABLE_EXITS = (EXIT_FINISHED, EXIT_REQUEUE, EXIT_STOPPED_BY_PERSON)
_ANSWERS = ("rollback", "rollback-refused", "rollback-done")
_MOST_ACTIONS = 16
_MOST_EVIDENCE = 20
_ROLLBACK, _STOP, _EVIDENCE = "watch-rollback", "watch-stop", "watch-evidence"
"""How names of orders begin."""


@dataclass(frozen=True, kw_only=True)
class Hands:
    """What the watcher can do."""

    journal: Journal
    alerts: Alerts
    say: Callable[[str], None]
    """Tells whoever sits at the terminal."""
    may_order: bool = True
    """Without it, the watcher only looks and tells."""


class Watcher:
    """Watches one run. `look` is called again and again."""

    def __init__(self, run_dir: RunDir, config: Config, memory: Memory, hands: Hands, *, is_anew: bool) -> None:
        """`is_anew` if nothing was remembered: what the run has done until now is history then, and not acted upon."""
        self.memory = memory
        self._run_dir = run_dir
        self._watch = config.watch
        self._policy = policy_settings(config.watch)
        self._clean_after_steps = config.checkpoint.clean_after_steps
        self._global_batch_size = config.phases[0].global_batch_size
        self._saved = SavedCheckpoints(run_dir)
        self._hands = hands
        self._is_anew = is_anew
        self._detector = Detector()
        if memory.detector is not None:
            self._detector.restore(memory.detector)

    def look(self) -> bool:
        """Takes in what is new and acts upon it; whether there was anything new.

        Raises:
            OSError: From the disk.
            UsageError: An order could not be given.
        """
        before = (self.memory.metrics.offset, self.memory.events.offset)
        self._hear_events()
        self._settle()
        verdicts = self._hear_records()
        if self._is_anew:  # of what has been before we came, only what still goes on is of interest
            open_starts = {episode.start for episode in self._detector.open_episodes()}
            verdicts = [verdict for verdict in verdicts if verdict.start in open_starts]
            self._is_anew = False
        is_new = before != (self.memory.metrics.offset, self.memory.events.offset)
        if is_new and self.memory.attempt >= self.memory.attempt_to_await:
            self._mark()
            self._act(verdicts)
        self._hands.alerts.deliver(self.memory)
        self.memory.detector = self._detector.save()
        return is_new

    def _hear_events(self) -> None:
        """What the trainer says of itself."""
        for line in new_lines(self._run_dir.events, self.memory.events):
            try:
                event = json.loads(line)
                kind, step, attempt = event["kind"], int(event["step"]), int(event["attempt"])
            except (ValueError, TypeError, KeyError):
                continue
            if event.get("by") != WRITER:
                self._hear_event(kind, step, attempt, event)

    def _hear_event(self, kind: str, step: int, attempt: int, event: Mapping[str, object]) -> None:
        memory = self.memory
        order = str(event.get("order", "")).removesuffix(".json")
        if kind in ("started", "resumed"):
            memory.exit_code = None
            memory.resumed_after_step = step if kind == "resumed" else None
            memory.handled_starts, memory.dirty_starts = [], []
            if memory.pending and memory.pending.startswith(_STOP):
                memory.pending = None
        elif kind == "exit":
            memory.exit_code = int(str(event.get("exit_code", 0)))
            if memory.exit_code not in _UNREMARKABLE_EXITS:
                reason = event.get("reason")
                self._tell("exit", f"training left with exit code {memory.exit_code} at step {step}: {reason}")
        elif kind in _ANSWERS:
            self._hear_answer(kind, step, attempt, order, event)
        elif kind == "evidence":
            self._hear_evidence(order, str(event.get("path")))
        elif kind == "evidence-refused":
            memory.examinations = [each for each in memory.examinations if each.order != order]

    def _hear_answer(self, kind: str, step: int, attempt: int, order: str, event: Mapping[str, object]) -> None:
        """What came of a rollback, ours or a person's."""
        memory = self.memory
        if memory.pending == order:
            memory.pending = None
        if kind == "rollback":
            self._remember_cause(order, step, event)
            memory.attempt_to_await = max(memory.attempt_to_await, attempt)
            memory.resumed_after_step = step
            text = f"rolled back from step {event.get('from_step')} to step {step}: {event.get('reason')}"
            self._tell("rollback", text)
        elif kind == "rollback-refused":
            memory.causes.pop(order, None)
            self._tell("refused", f"the run did not roll back: {event.get('reason')}; a person must look")

    def _remember_cause(self, order: str, to_step: int, event: Mapping[str, object]) -> None:
        """Counts a rollback that was ordered just before the watcher was killed."""
        start = order.rpartition("-")[2]
        if order.startswith(_ROLLBACK) and start.isdecimal():
            at_step = int(str(event.get("from_step", to_step)))
            past = PastRollback(at_step=at_step, start=int(start), to_step=to_step)
            self.memory.causes.setdefault(order, past)

    def _settle(self) -> None:
        """Waits no longer for an order that somebody withdrew, or that the run could not read."""
        pending = self.memory.pending
        if pending is None:
            return
        is_rejected = (self._run_dir.signals_rejected / f"{pending}.json").exists()
        if is_rejected or not is_known(self._run_dir, pending):
            self.memory.pending = None
            self.memory.causes.pop(pending, None)
            self._tell("refused", f"the order {pending} was {'rejected' if is_rejected else 'withdrawn'}")

    def _hear_records(self) -> list[Verdict]:
        """What was said of the records that are new; each was seen once, whatever became of the file."""
        verdicts: list[Verdict] = []
        memory = self.memory
        for record in self._new_records():
            if (record.attempt, record.step) <= (memory.attempt, memory.step):
                continue
            if record.step <= memory.step:
                self._rewind(record.step - 1)
                verdicts = []
            memory.attempt, memory.step = record.attempt, record.step
            memory.consumed_samples = record.consumed_samples
            for verdict in self._detector.observe(_for_detector(record)):
                verdicts.append(verdict)
                self._note(verdict)
        return verdicts

    def _new_records(self) -> Iterator[StepRecord]:
        for line in new_lines(self._run_dir.metrics, self.memory.metrics):
            if (record := from_json_line(line)) is not None:
                yield record

    def _rewind(self, to_step: int) -> None:
        """Forgets what is no longer part of the run."""
        memory = self.memory
        memory.resumed_after_step = to_step
        memory.handled_starts, memory.dirty_starts, memory.examinations = [], [], []
        memory.alarms = [alarm for alarm in memory.alarms if alarm.start <= to_step]

    def _note(self, verdict: Verdict) -> None:
        """Writes a verdict down, and tells people of those that matter."""
        memory = self.memory
        if verdict.kind in ALARMS:
            remember_alarm(memory, verdict.start, verdict.end)
        is_news = self._event(
            f"{verdict.kind}-{verdict.channel}-{verdict.start}",
            _EVENT_KINDS.get(verdict.kind, verdict.kind),
            channel=verdict.channel,
            direction=verdict.direction,
            start=verdict.start,
            end=verdict.end,
            z=round(verdict.z, 2),
            height=round(verdict.height, 4),
        )
        if verdict.kind in ("confirmed", "non-finite") and is_news:
            moved = "is not finite" if verdict.kind == "non-finite" else f"moved {verdict.direction}"
            self._tell(
                "spike", f"loss of {verdict.channel} {moved} at step {verdict.start} ({verdict.height:+.3f} nats)"
            )

    def _hear_evidence(self, order: str, path: str) -> None:
        """Weighs evidence; what a watcher has asked for that was killed then is kept until it is asked for again."""
        memory = self.memory
        asked = next((each for each in memory.examinations if each.order == order), None)
        if asked is not None:
            memory.examinations.remove(asked)
            self._weigh(asked, Path(path))
        elif order.startswith(_EVIDENCE):
            memory.evidence = {**dict(list(memory.evidence.items())[-_MOST_EVIDENCE:]), order: path}

    def _weigh(self, asked: Examination, path: Path) -> None:
        """Reads the evidence that was asked for and remembers what it says."""
        memory = self.memory
        try:
            samples = read_evidence(path)
        except DataError as error:
            self._hands.say(f"warning: {error}")
            return
        channel = None if asked.channel == TOTAL else asked.channel
        found = attribute(samples, channel=channel, direction=asked.direction, start=asked.start, height=asked.height)
        is_news = self._event(
            f"attributed-{asked.order}",
            "attributed",
            start=asked.start,
            channel=asked.channel,
            dirty=found.dirty,
            reason=found.text,
            documents=found.documents(),
            evidence=str(path),
        )
        documents = f": {named(found)}" if found.guilty else ""
        if is_news:
            self._tell("attributed", f"loss of {asked.channel} since step {asked.start}: {found.text}{documents}")
        if found.dirty:
            related = [each.start for each in self._detector.open_episodes() if each.start <= asked.last]
            memory.dirty_starts = sorted({*memory.dirty_starts, asked.start, *related})

    def _mark(self) -> None:
        """Orders marks on the checkpoints whose health is not what it should be."""
        due = due_mark(
            self._saved.list(),
            self.memory,
            is_quiet=not self._detector.open_episodes(),
            margin_steps=self._watch.rollback_margin_steps,
            clean_after_steps=self._clean_after_steps,
        )
        if due is not None and self._hands.may_order:
            post(self._run_dir, due.name, OrderKind.MARK, "", due.request)

    def _act(self, verdicts: list[Verdict]) -> None:
        """Does what the policy says, until it has nothing more to say."""
        for _ in range(_MOST_ACTIONS):
            if self.memory.pending is not None:
                return
            now = situation(
                self.memory, verdicts, self._detector.open_episodes(), self._saved.list(), self._global_batch_size
            )
            action = decide(now, self._policy)
            if isinstance(action, KeepTraining):
                return
            verdicts = self._carry_out(action, now, verdicts)

    def _carry_out(self, action: Action, now: Situation, verdicts: list[Verdict]) -> list[Verdict]:
        """Does one thing; returns the verdicts that the policy should still look at."""
        memory = self.memory
        if isinstance(action, AskEvidence):
            self._ask_evidence(action, verdicts)
            return [each for each in verdicts if each.kind != "confirmed" or each.start != action.first_step]
        if isinstance(action, Alert):
            self._tell("advice", action.text)
            memory.handled_starts.append(action.start)
            return [each for each in verdicts if each.kind != "drift" or each.start != action.start]
        assert isinstance(action, Rollback | Stop), f"{action} is an action"
        if isinstance(action, Rollback):
            self._roll_back(action, now)
        else:
            self._stop(action)
        memory.handled_starts += [action.start, *(episode.start for episode in now.episodes)]
        return []

    def _ask_evidence(self, action: AskEvidence, verdicts: list[Verdict]) -> None:
        memory = self.memory
        request = evidence_request(action.first_step, action.last_step, memory.step)
        about = next(each for each in verdicts if each.kind == "confirmed" and each.start == action.first_step)
        if any(each.first <= about.start <= each.last for each in memory.examinations):
            return  # another curve of the same episode
        name = f"{_EVIDENCE}-{memory.attempt:03d}-{request.steps[0]:07d}-{request.steps[1]:07d}"
        asked = Examination(
            order=name,
            first=request.steps[0],
            last=request.steps[1],
            start=about.start,
            channel=about.channel,
            direction=about.direction,
            height=about.height,
        )
        if (path := memory.evidence.pop(name, None)) is not None:
            self._weigh(asked, Path(path))
            return
        memory.examinations.append(asked)
        self._order(name, OrderKind.EVIDENCE, f"loss of {about.channel} moved {about.direction}", request)

    def _roll_back(self, action: Rollback, now: Situation) -> None:
        memory = self.memory
        name = f"{_ROLLBACK}-{memory.attempt:03d}-{action.start:07d}"
        request = rollback_request(action, now, self._watch.repeat_for_steps)
        memory.causes[name] = PastRollback(at_step=memory.step, start=action.start, to_step=action.to_step)
        if self._order(name, OrderKind.ROLLBACK, action.reason, request):
            memory.pending = name
        skipped = request.skip_steps or (0, 0)
        self._event(
            name, "rollback-ordered", reason=action.reason, to_step=action.to_step, skip_steps=list(skipped), order=name
        )
        self._tell(
            "order",
            f"{action.reason}: ordered a return to step {action.to_step}, skipping the samples of steps "
            f"{skipped[0]} to {skipped[1]}",
        )

    def _stop(self, action: Stop) -> None:
        name = f"{_STOP}-{self.memory.attempt:03d}-{action.start:07d}"
        if self._order(name, OrderKind.STOP_FOR_PERSON, action.reason):
            self.memory.pending = name
        self._event(name, "stop-ordered", reason=action.reason, order=name)
        self._tell("order", f"{action.reason}: ordered the run to stop; a person must look")

    def _order(self, name: str, kind: OrderKind, reason: str, request: Request | None = None) -> bool:
        """Gives an order, unless the watcher may only look; whether it stands."""
        if not self._hands.may_order:
            return False
        post(self._run_dir, name, kind, reason, request)
        return True

    def _event(self, event_id: str, kind: str, **fields: object) -> bool:
        """Writes an event; False if it was written before."""
        memory = self.memory
        return self._hands.journal.write(
            f"{memory.attempt}-{event_id}", kind, attempt=memory.attempt, step=memory.step, **fields
        )

    def _tell(self, kind: str, text: str) -> None:
        if self._is_anew:  # news of what was long ago is none
            return
        self._hands.say(text)
        self._hands.alerts.tell(self.memory, kind, text)


def _for_detector(record: StepRecord) -> LossRecord:
    """The part of a record that the detector looks at."""
    values = record.values
    per_channel = [(channel, name) for name in values if (channel := names.channel_of(name)) is not None]
    return LossRecord(
        step=record.step,
        loss=values.get(names.LM_LOSS),
        channels={channel: values[name] for channel, name in per_channel if name == names.lm_loss_of(channel)},
        tokens={channel: values[name] for channel, name in per_channel if name == names.tokens_of(channel)},
        grad_norm=values.get(names.GRAD_NORM),
        learning_rate=values.get(names.LEARNING_RATE),
        phase=record.phase,
        attempt=record.attempt,
    )
