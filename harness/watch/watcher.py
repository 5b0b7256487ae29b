"""One look at a run: hear what is new, judge it, and do at most what the policy says.

Between two looks everything is in `Memory`. What a look does is done in an order in which it may be cut off anywhere:
an event, an order and a mark are named after their cause, and the memory is written last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.config.batch_sizes import batch_sizes
from harness.config.schema import Config
from harness.errors import EXIT_FINISHED, EXIT_REQUEUE, EXIT_STOPPED_BY_PERSON
from harness.run import metric_names as names
from harness.run.commands.command import OrderKind
from harness.run.commands.post import is_known
from harness.run.follow import new_lines
from harness.run.paths import RunDir
from harness.run.records import StepRecord, from_json_line
from harness.watch.announcer import Hands, Telling
from harness.watch.detector import Detector, LossRecord
from harness.watch.exposition import Latest
from harness.watch.inquiry import Inquiry
from harness.watch.journal import WRITER
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
from harness.watch.saved_state import Memory
from harness.watch.situation import (
    due_mark,
    policy_settings,
    remember_alarm,
    rollback_request,
    situation,
)
from harness.watch.stop_report import write_report
from harness.watch.verdict import ALARMS, Verdict

_UNREMARKABLE_EXITS = (EXIT_FINISHED, EXIT_REQUEUE, EXIT_STOPPED_BY_PERSON)
_ANSWERS = ("rollback", "rollback-refused", "rollback-done")
_OF_DATA = {
    "waiting-for-parts": "training waits for further parts, because no data is left in",
    "parts-refused": "parts of the data were refused:",
}
"""What people are told of the data; how it goes on is in the event."""
_MOST_ACTIONS = 16
_ROLLBACK, _STOP = "watch-rollback", "watch-stop"
"""How names of orders begin."""


class Watcher:
    """Watches one run. `look` is called again and again."""

    def __init__(self, run_dir: RunDir, config: Config, memory: Memory, hands: Hands, *, is_anew: bool) -> None:
        """`is_anew` if nothing was remembered: what the run has done until now is history then, and not acted upon."""
        self.memory = memory
        self._run_dir = run_dir
        self._watch = config.watch
        self._policy = policy_settings(config.watch)
        self._clean_after_steps = config.quarantine_steps
        # Steps are turned into samples and back with one number: the smallest batch, so that none comes before the run.
        self._batch_size = min(batch_sizes(phase).smallest for phase in config.phases)
        self._saved = SavedCheckpoints(run_dir)
        self._telling = Telling(run_dir, memory, hands, is_history=is_anew)
        self._inquiry = Inquiry(self._telling)
        self.latest = Latest(run=config.run.name)
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
        if self._telling.is_history:  # of what has been before we came, only what still goes on is of interest
            open_starts = {episode.start for episode in self._detector.open_episodes()}
            verdicts = [verdict for verdict in verdicts if verdict.start in open_starts]
            self._telling.is_history = False
        self._publish()
        is_new = before != (self.memory.metrics.offset, self.memory.events.offset)
        if is_new and self.memory.attempt >= self.memory.attempt_to_await:
            self._mark()
            self._act(verdicts)
        self._telling.hands.alerts.deliver(self.memory)
        if is_new:
            self.memory.detector = self._detector.save()
        return is_new

    def _publish(self) -> None:
        """Puts out what whoever asks for numbers gets."""
        self.latest.episodes = tuple(self._detector.open_episodes())
        self.latest.num_rollbacks = len(self.memory.causes)
        self.latest.is_training = self.memory.exit_code is None

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
            memory.resumed = (attempt, step) if kind == "resumed" else None
            memory.handled_starts, memory.dirty_starts = [], []
            if memory.pending and memory.pending.startswith(_STOP):
                memory.pending = None
        elif kind == "exit":
            memory.exit_code = int(str(event.get("exit_code", 0)))
            if memory.exit_code not in _UNREMARKABLE_EXITS:
                reason = event.get("reason")
                self._telling.tell("exit", f"training left with exit code {memory.exit_code} at step {step}: {reason}")
        elif kind in _ANSWERS:
            self._hear_answer(kind, step, attempt, order, event)
        elif kind == "evidence":
            self._inquiry.hear(order, Path(str(event.get("path"))), self._detector.open_episodes())
        elif kind == "evidence-refused":
            self._inquiry.hear_refused(order)
        elif kind in _OF_DATA:
            self._telling.tell("data", f"{_OF_DATA[kind]} {event.get('channels') or event.get('reason')} (step {step})")

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
            self._telling.tell("rollback", text)
        elif kind == "rollback-refused":
            memory.causes.pop(order, None)
            self._telling.tell("refused", f"the run did not roll back: {event.get('reason')}; a person must look")

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
            self._telling.tell("refused", f"the order {pending} was {'rejected' if is_rejected else 'withdrawn'}")

    def _hear_records(self) -> list[Verdict]:
        """What was said of the records that are new; each was seen once, whatever became of the file."""
        verdicts: list[Verdict] = []
        memory = self.memory
        for record in self._new_records():
            if (record.attempt, record.step) <= (memory.attempt, memory.step):
                continue
            if record.step <= memory.step:
                self._rewind(record.step - 1)
                if (at := memory.resumed) and record.attempt == at[0] and record.step <= at[1]:
                    memory.resumed_after_step = at[1]  # the way to there is repeated, not trained again
                verdicts = []
            memory.attempt, memory.step = record.attempt, record.step
            self.latest.record = record
            memory.consumed_samples = record.consumed_samples
            for verdict in self._detector.observe(_for_detector(record)):
                verdicts.append(verdict)
                if verdict.kind in ALARMS:
                    remember_alarm(memory, verdict.start, verdict.end)
                self._telling.verdict(verdict)
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

    def _mark(self) -> None:
        """Orders marks on the checkpoints whose health is not what it should be."""
        due = due_mark(
            self._saved.list(),
            self.memory,
            is_quiet=not self._detector.open_episodes(),
            margin_steps=self._watch.rollback_margin_steps,
            clean_after_steps=self._clean_after_steps,
        )
        if due is not None:
            self._telling.order(due.name, OrderKind.MARK, "", due.request)

    def _act(self, verdicts: list[Verdict]) -> None:
        """Does what the policy says, until it has nothing more to say."""
        for _ in range(_MOST_ACTIONS):
            if self.memory.pending is not None:
                return
            now = situation(self.memory, verdicts, self._detector.open_episodes(), self._saved.list(), self._batch_size)
            action = decide(now, self._policy)
            if isinstance(action, KeepTraining):
                return
            verdicts = self._carry_out(action, now, verdicts)

    def _carry_out(self, action: Action, now: Situation, verdicts: list[Verdict]) -> list[Verdict]:
        """Does one thing; returns the verdicts that the policy should still look at."""
        memory = self.memory
        if isinstance(action, AskEvidence):
            self._inquiry.ask(action, verdicts, now.episodes)
            return [each for each in verdicts if each.kind != "confirmed" or each.start != action.first_step]
        if isinstance(action, Alert):
            self._telling.tell("advice", action.text)
            memory.handled_starts.append(action.start)
            return [each for each in verdicts if each.kind != "drift" or each.start != action.start]
        assert isinstance(action, Rollback | Stop), f"{action} is an action"
        if isinstance(action, Rollback):
            self._roll_back(action, now)
        else:
            self._stop(action, now)
        memory.handled_starts += [action.start, *(episode.start for episode in now.episodes)]
        return []

    def _roll_back(self, action: Rollback, now: Situation) -> None:
        """Orders a rollback; everything else waits until it is answered."""
        memory = self.memory
        request = rollback_request(action, now, self._watch.repeat_for_steps)
        skipped = request.skip_steps or (0, 0)
        words = f"a return to step {action.to_step}, skipping the samples of steps {skipped[0]} to {skipped[1]}"
        if not self._telling.hands.may_order:
            self._telling.tell("advice", f"{action.reason}: without --no-orders it would order {words}")
            return
        name = f"{_ROLLBACK}-{memory.attempt:03d}-{action.start:07d}"
        memory.causes[name] = PastRollback(at_step=memory.step, start=action.start, to_step=action.to_step)
        if self._telling.order(name, OrderKind.ROLLBACK, action.reason, request):
            memory.pending = name
        fields = {"reason": action.reason, "to_step": action.to_step, "skip_steps": list(skipped), "order": name}
        if self._telling.event(name, "rollback-ordered", **fields):
            self._telling.tell("order", f"{action.reason}: ordered {words}")

    def _stop(self, action: Stop, now: Situation) -> None:
        """Orders the run to leave for a person, and writes down for that person what there is to know."""
        if not self._telling.hands.may_order:
            self._telling.tell("advice", f"{action.reason}: without --no-orders it would order the run to stop")
            return
        name = f"{_STOP}-{self.memory.attempt:03d}-{action.start:07d}"
        path = write_report(self._run_dir, action, now)
        if self._telling.order(name, OrderKind.STOP_FOR_PERSON, f"{action.reason}; see {path}"):
            self.memory.pending = name
        if self._telling.event(name, "stop-ordered", reason=action.reason, order=name, report=str(path)):
            text = f"{action.reason}: ordered the run to stop; a person must look, see {path}"
            self._telling.tell("order", text)


def _for_detector(record: StepRecord) -> LossRecord:
    """The part of a record that the detector looks at."""
    values = record.values
    is_lost = values.get(names.SKIPPED) == 1.0  # the gradient alone may have been at fault: the loss is then finite
    per_channel = [(channel, name) for name in values if (channel := names.channel_of(name)) is not None]
    return LossRecord(
        step=record.step,
        loss=math.nan if is_lost else values.get(names.LM_LOSS),
        channels={channel: values[name] for channel, name in per_channel if name == names.lm_loss_of(channel)},
        tokens={channel: values[name] for channel, name in per_channel if name == names.tokens_of(channel)},
        grad_norm=values.get(names.GRAD_NORM),
        learning_rate=values.get(names.LEARNING_RATE),
        phase=record.phase,
        attempt=record.attempt,
    )
