"""One look at a run: reads the new lines, judges them, and does at most what the policy decides.

Between two looks everything is in `WatchState`. A look may be interrupted at any point, because events, commands and
marks are named after their cause, and the state is written last.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.config.batch_sizes import train_steps
from harness.config.schema import Config
from harness.errors import EXIT_FINISHED, EXIT_REQUEUE, EXIT_STOPPED_BY_PERSON
from harness.run.commands import requests
from harness.run.commands.giving import is_known
from harness.run.event_types import (
    AnyEvent,
    Evidence,
    EvidenceRefused,
    Exit,
    FileLost,
    LaunchEnded,
    PartDamaged,
    PartsRefused,
    Resumed,
    RollbackDone,
    RollbackOrdered,
    RollbackRefused,
    RolledBack,
    Started,
    StopOrdered,
    WaitingForParts,
)
from harness.run.events import kinds_of, parse_event
from harness.run.follow import mark_of_last, new_lines
from harness.run.paths import RunDir
from harness.run.records import from_json_line
from harness.watch.announcer import Announcer, Outputs
from harness.watch.detector import Detector
from harness.watch.exposition import Latest
from harness.watch.inquiry import Inquiry
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
from harness.watch.recordings import loss_record
from harness.watch.routers import RouterState, watch_routers
from harness.watch.saved import SavedCheckpoints
from harness.watch.saved_state import WatchState
from harness.watch.situation import due_mark, remember_alarm, rollback_request, situation
from harness.watch.stop_report import write_report
from harness.watch.verdict import ALARMS, Verdict

_UNREMARKABLE_EXITS = (EXIT_FINISHED, EXIT_REQUEUE, EXIT_STOPPED_BY_PERSON)
_MOST_ACTIONS = 16
MOST_HISTORY = 20_000
"""Records of a run's past by which a watcher that begins anew judges what follows. Of the detector's memory of them the
slowest fades by 1/400 with each record (`harness.watch.baseline`)."""
_ROLLBACK, _STOP = "watch-rollback", "watch-stop"
"""Prefixes of the names of the watcher's commands."""
_KINDS = kinds_of(
    Started,
    Resumed,
    Exit,
    LaunchEnded,
    RolledBack,
    RollbackRefused,
    RollbackDone,
    RollbackOrdered,
    Evidence,
    EvidenceRefused,
    WaitingForParts,
    PartsRefused,
    PartDamaged,
    FileLost,
)
"""Kinds of the events that the watcher acts upon."""
_STEP = re.compile(r"[0-9]{1,15}")


class Watcher:
    """Watches one run. `look` is called repeatedly."""

    def __init__(self, run_dir: RunDir, config: Config, state: WatchState, outputs: Outputs, *, is_anew: bool) -> None:
        """Take the run and the state to go on from.

        `is_anew` if there was no saved state. Then the past of the run is history and not acted upon, and of its
        metrics only the last `MOST_HISTORY` records are read.
        """
        self.state = state
        if is_anew:
            state.metrics = mark_of_last(run_dir.metrics, MOST_HISTORY)
        self._run_dir = run_dir
        self._watch = config.watch
        self._model = config.model
        self._clean_after_steps = config.clean_after_steps_or_default
        self._saved = SavedCheckpoints(run_dir)
        self._announcer = Announcer(run_dir, state, outputs, is_history=is_anew)
        self._inquiry = Inquiry(self._announcer)
        length = sum(map(train_steps, config.phases))
        self.latest = Latest(run=config.run.name, directory=str(run_dir.root.absolute()), train_steps=length)
        self._given_up: str | None = None
        """Reason why the job of the newest launch gave up; None if it did not."""
        self._detector = Detector()
        if state.detector is not None:
            self._detector.restore(state.detector)

    def look(self) -> bool:
        """Read the new lines and act upon them; return whether there were any.

        Raises:
            OSError: From the disk.
            UsageError: A command could not be given.
        """
        before = (self.state.metrics.offset, self.state.events.offset)
        self._read_events()
        self._drop_unanswerable()
        verdicts = self._observe_records()
        if self._announcer.is_history:  # of the run's past only the episodes that are still open matter
            open_starts = {episode.start for episode in self._detector.open_episodes()}
            verdicts = [verdict for verdict in verdicts if verdict.start in open_starts]
            self._announcer.is_history = False
        if self._given_up is not None:
            self._announcer.alert("given-up", self._given_up)
            self._given_up = None
        self._publish()
        is_new = before != (self.state.metrics.offset, self.state.events.offset)
        if is_new and self.state.attempt >= self.state.attempt_to_await:
            self._mark()
            self._act(verdicts)
        self._announcer.outputs.alerts.deliver(self.state)
        if is_new:
            self.state.detector = self._detector.save()
        return is_new

    def _publish(self) -> None:
        """Update the values that are served to Prometheus."""
        self.latest.episodes = tuple(self._detector.open_episodes())
        self.latest.num_rollbacks = len(self.state.causes)
        self.latest.is_training = self.state.exit_code is None

    def _read_events(self) -> None:
        """Read the new events of other writers."""
        for line in new_lines(self._run_dir.events, self.state.events):
            event = parse_event(line, _KINDS)
            if isinstance(event, LaunchEnded):
                self._handle_launch_end(event)
            elif event is not None and event.by != "watch":
                self._handle(event)
            elif isinstance(event, RollbackOrdered) and self._announcer.is_history:
                self._remember_cause(event.command, event.step, event.to_step)

    def _handle(self, event: AnyEvent) -> None:
        match event:
            case Started() | Resumed():
                self._handle_start(event)
            case Exit():
                self.state.exit_code = event.exit_code
                if event.exit_code not in _UNREMARKABLE_EXITS:
                    left = f"training left with exit code {event.exit_code} at step {event.step}"
                    self._announcer.alert("exit", f"{left}: {event.reason}")
            case RolledBack() | RollbackRefused() | RollbackDone():
                self._handle_rollback_answer(event)
            case Evidence():
                self._inquiry.take(_name_of(event), Path(event.path), self._detector.open_episodes())
            case EvidenceRefused():
                self._inquiry.give_up(_name_of(event))
            case WaitingForParts() | PartsRefused() | PartDamaged() | FileLost():
                self._announcer.alert(*_trouble_in_words(event))

    def _handle_start(self, event: Started | Resumed) -> None:
        state = self.state
        state.exit_code = None
        self._given_up = None
        is_resumed = isinstance(event, Resumed)
        state.resumed_after_step = event.step if is_resumed else None
        state.resumed = (event.attempt, event.step) if is_resumed else None
        state.handled_starts, state.dirty_starts = [], []
        if state.pending and state.pending.startswith(_STOP):
            state.pending = None

    def _handle_launch_end(self, event: LaunchEnded) -> None:
        """Note the end of a job's launch. A watcher that was started later also reports a job that has given up."""
        if event.action == "stop":
            self.state.exit_code = event.exit_code
        if event.alert:
            self._given_up = f"job {event.job_id} has given up (exit code {event.exit_code}): {event.reason}"

    def _handle_rollback_answer(self, event: RolledBack | RollbackRefused | RollbackDone) -> None:
        """Note the outcome of a rollback, commanded by this watcher or by a person."""
        state, command = self.state, _name_of(event)
        if state.pending == command:
            state.pending = None
        if isinstance(event, RolledBack):
            self._remember_cause(command, event.step if event.from_step is None else event.from_step, event.step)
            state.attempt_to_await = max(state.attempt_to_await, event.attempt)
            state.resumed_after_step = event.step
            text = f"rolled back from step {event.from_step} to step {event.step}: {event.reason}"
            self._announcer.alert("rollback", text)
        elif isinstance(event, RollbackRefused):
            state.causes.pop(command, None)
            self._announcer.alert("refused", f"the run did not roll back: {event.reason}; a person must look")

    def _remember_cause(self, command: str, at_step: int, to_step: int) -> None:
        """Count a rollback that was commanded by a watcher that was killed just then, or whose state is lost."""
        start = command.rpartition("-")[2]
        if command.startswith(_ROLLBACK) and _STEP.fullmatch(start):
            past = PastRollback(at_step=at_step, start=int(start), to_step=to_step)
            self.state.causes.setdefault(command, past)

    def _drop_unanswerable(self) -> None:
        """Stop waiting for a command that was withdrawn, or that the run could not read."""
        pending = self.state.pending
        if pending is None:
            return
        is_rejected = (self._run_dir.signals_rejected / f"{pending}.json").exists()
        if is_rejected or not is_known(self._run_dir, pending):
            self.state.pending = None
            self.state.causes.pop(pending, None)
            self._announcer.alert("refused", f"the command {pending} was {'rejected' if is_rejected else 'withdrawn'}")

    def _observe_records(self) -> list[Verdict]:
        """Return the verdicts on the new records. Each record is judged once, even if the file was replaced."""
        verdicts: list[Verdict] = []
        state = self.state
        for line in new_lines(self._run_dir.metrics, state.metrics):
            record = from_json_line(line)
            if record is None or (record.attempt, record.step) <= (state.attempt, state.step):
                continue
            if record.step <= state.step:
                self._rewind(record.step - 1)
                if (at := state.resumed) and record.attempt == at[0] and record.step <= at[1]:
                    state.resumed_after_step = at[1]  # these records are repeated, their steps are not trained again
                verdicts = []
            state.attempt, state.step = record.attempt, record.step
            self.latest.observe(record)
            collapse = watch_routers(state.routers, record.experts_by_layer, self._model)
            if collapse is not None:
                self._announcer.alert("routers", f"{collapse} (step {record.step})")
            for verdict in self._detector.observe(loss_record(record)):
                verdicts.append(verdict)
                if verdict.kind in ALARMS:
                    remember_alarm(state, verdict.start, verdict.end)
                self._announcer.verdict(verdict)
        return verdicts

    def _rewind(self, to_step: int) -> None:
        """Forget everything after a step to which the run was rewound."""
        state = self.state
        state.resumed_after_step = to_step
        state.handled_starts, state.dirty_starts, state.examinations = [], [], []
        state.alarms = [alarm for alarm in state.alarms if alarm.start <= to_step]
        state.routers = RouterState()

    def _mark(self) -> None:
        """Give the command to correct the health of checkpoints."""
        due = due_mark(
            self._saved.list(),
            self.state,
            is_quiet=not self._detector.open_episodes(),
            margin_steps=self._watch.rollback_margin_steps,
            clean_after_steps=self._clean_after_steps,
        )
        if due is not None:
            self._announcer.command(*due, "")

    def _act(self, verdicts: list[Verdict]) -> None:
        """Carry out the policy's actions until there are no more."""
        for _ in range(_MOST_ACTIONS):
            if self.state.pending is not None:
                return
            now = situation(self.state, verdicts, self._detector.open_episodes(), self._saved.list())
            action = decide(now, self._watch)
            if isinstance(action, KeepTraining):
                return
            verdicts = self._carry_out(action, now, verdicts)

    def _carry_out(self, action: Action, now: Situation, verdicts: list[Verdict]) -> list[Verdict]:
        """Carry out one action; return the verdicts that the policy should still look at."""
        state = self.state
        if isinstance(action, AskEvidence):
            self._inquiry.ask(action, verdicts, now.episodes)
            return [each for each in verdicts if each.kind != "confirmed" or each.start != action.first_step]
        if isinstance(action, Alert):
            self._announcer.alert("advice", action.text)
            state.handled_starts.append(action.start)
            return [each for each in verdicts if each.kind != "drift" or each.start != action.start]
        assert isinstance(action, Rollback | Stop), f"{action} is an action"
        if isinstance(action, Rollback):
            self._roll_back(action, now)
        else:
            self._stop(action, now)
        state.handled_starts += [action.start, *(episode.start for episode in now.episodes)]
        return []

    def _roll_back(self, action: Rollback, now: Situation) -> None:
        """Give the command to roll back. Everything else waits until it is answered."""
        state = self.state
        request = rollback_request(action, self._watch.repeat_for_steps)
        skipped = request.skip_steps or (0, 0)
        words = f"a return to step {action.to_step}, skipping the samples of steps {skipped[0]} to {skipped[1]}"
        if not self._announcer.outputs.may_command:
            self._announcer.alert("advice", f"{action.reason}: without --no-orders it would ask for {words}")
            return
        name = f"{_ROLLBACK}-{state.attempt:03d}-{action.start:07d}"
        state.causes[name] = PastRollback(at_step=state.step, start=action.start, to_step=action.to_step)
        if self._announcer.command(name, request, action.reason):
            state.pending = name
        given = RollbackOrdered(
            attempt=state.attempt,
            step=state.step,
            reason=action.reason,
            to_step=action.to_step,
            skip_steps=skipped,
            command=name,
        )
        if self._announcer.event(name, given):
            self._announcer.alert("order", f"{action.reason}: gave the command for {words}")

    def _stop(self, action: Stop, now: Situation) -> None:
        """Give the command to stop for a person, and write that person a report."""
        if not self._announcer.outputs.may_command:
            self._announcer.alert("advice", f"{action.reason}: without --no-orders it would give the command to stop")
            return
        name = f"{_STOP}-{self.state.attempt:03d}-{action.start:07d}"
        path = write_report(self._run_dir, action, now)
        if self._announcer.command(name, requests.StopForPerson(), f"{action.reason}; see {path}"):
            self.state.pending = name
        given = StopOrdered(
            attempt=self.state.attempt,
            step=self.state.step,
            reason=action.reason,
            command=name,
            report=str(path),
        )
        if self._announcer.event(name, given):
            text = f"{action.reason}: gave the command to stop; a person must look, see {path}"
            self._announcer.alert("order", text)


def _trouble_in_words(event: WaitingForParts | PartsRefused | PartDamaged | FileLost) -> tuple[str, str]:
    """Return kind and text of the alert about trouble with files."""
    at = f"(step {event.step})"
    match event:
        case WaitingForParts():
            channels = ", ".join(event.channels)
            return "data", f"training waits for further parts, because no data is left in {channels} {at}"
        case PartsRefused():
            return "data", f"parts of the data were refused: {event.reason} {at}"
        case PartDamaged():
            return "data", f"a part of the data is damaged: {event.reason} {at}"
        case FileLost():
            return "file", f"{event.reason} {at}"


def _name_of(event: RolledBack | RollbackRefused | RollbackDone | Evidence | EvidenceRefused) -> str:
    """Return the name of the command that an event answers."""
    return event.command.removesuffix(".json")
