"""One look at a run: reads the new lines, judges them, and does at most what the policy decides.

Between two looks everything is in `WatchState`. A look may be interrupted at any point, because events, commands and
marks are named after their cause, and the state is written last.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from harness.alerts.alert import ENDED, Kind
from harness.alerts.alert import Alert as Told
from harness.config.batch_sizes import train_steps
from harness.config.schema import Config
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
    PartsCame,
    PartsRefused,
    Resumed,
    RollbackDone,
    RollbackOrdered,
    RollbackRefused,
    RolledBack,
    Saved,
    SaveFailed,
    Started,
    StopOrdered,
    WaitingForParts,
)
from harness.run.events import kinds_of, parse_event
from harness.run.follow import mark_of_last, new_lines
from harness.run.paths import RunDir
from harness.run.records import from_json_line
from harness.watch.all_clear import spikes_over
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
from harness.watch.trouble import SAVE, WAITS, trouble
from harness.watch.verdict import ALARMS, Verdict

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
    PartsCame,
    PartsRefused,
    PartDamaged,
    FileLost,
    Saved,
    SaveFailed,
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
        self._publish()
        is_new = before != (self.state.metrics.offset, self.state.events.offset)
        if is_new and self.state.attempt >= self.state.attempt_to_await:
            self._mark()
            self._act(verdicts)
        if is_new:
            self._tell_what_is_over()
        self._announcer.outputs.alerts.tend()
        if is_new:
            self.state.detector = self._detector.save()
        return is_new

    def _tell_what_is_over(self) -> None:
        """Tell people of the spikes that they were told of and that are over."""
        last = self.latest.record
        if last is None or not (keys := self._announcer.outputs.alerts.open_keys(Kind.SPIKE)):
            return
        for key, text in spikes_over(keys, self._detector.open_episodes(), last):
            self._announcer.over(key, text)

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
            case RolledBack() | RollbackRefused() | RollbackDone():
                self._handle_rollback_answer(event)
            case Evidence():
                self._inquiry.take(_name_of(event), Path(event.path), self._detector.open_episodes())
            case EvidenceRefused():
                self._inquiry.give_up(_name_of(event))
            case Saved():
                self._announcer.over(SAVE, f"step {event.step} was saved")
            case PartsCame():
                self._announcer.over(WAITS, f"parts came, after {event.seconds:.0f} s")
            case WaitingForParts() | PartsRefused() | PartDamaged() | FileLost() | SaveFailed():
                self._announcer.alert(trouble(event), f"{event.kind}-{event.step}-{event.time}")

    def _handle_start(self, event: Started | Resumed) -> None:
        state = self.state
        state.exit_code = None
        is_resumed = isinstance(event, Resumed)
        state.resumed_after_step = event.step if is_resumed else None
        state.resumed = (event.attempt, event.step) if is_resumed else None
        state.handled_starts, state.dirty_starts = [], []
        if state.pending and state.pending.startswith(_STOP):
            state.pending = None

    def _handle_launch_end(self, event: LaunchEnded) -> None:
        """Note the end of a job's launch. Who decided what follows has told people."""
        if event.action == "stop":
            self.state.exit_code = event.exit_code

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
            told = Told(key=f"rollback-{command}", kind=Kind.ROLLBACK, text=text, step=event.step)
            self._announcer.alert(told, f"rollback-{command}-{event.attempt}")
        elif isinstance(event, RollbackRefused):
            state.causes.pop(command, None)
            text = f"the run did not roll back: {event.reason}; a person must look"
            self._announcer.alert(Told(key=f"refused-{command}", kind=Kind.REFUSED, text=text), f"refused-{command}")

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
            text = f"the command {pending} was {'rejected by the run' if is_rejected else 'withdrawn'}"
            self._announcer.alert(Told(key=f"refused-{pending}", kind=Kind.REFUSED, text=text), f"refused-{pending}")

    def _observe_records(self) -> list[Verdict]:
        """Return the verdicts on the new records. Each record is judged once, even if the file was replaced."""
        verdicts: list[Verdict] = []
        state = self.state
        for line in new_lines(self._run_dir.metrics, state.metrics):
            record = from_json_line(line)
            if record is None or record.step == 0 or (record.attempt, record.step) <= (state.attempt, state.step):
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
                told = Told(key=f"routers-{record.step}", kind=Kind.ROUTERS, text=collapse, step=record.step)
                self._announcer.alert(told, f"routers-{record.step}")
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
            is_drift = any(each.kind == "drift" and each.start == action.start for each in verdicts)
            self._advise(action.text, action.start, Kind.DRIFT if is_drift else Kind.ADVICE)
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
            self._advise(f"{action.reason}: without --no-orders it would ask for {words}", action.start)
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
        self._announcer.event(name, given)
        text = f"{action.reason}: gave the command for {words}"
        self._announcer.alert(Told(key=f"order-{name}", kind=Kind.ORDER, text=text, step=action.start), name)

    def _advise(self, text: str, start: int, kind: Kind = Kind.ADVICE) -> None:
        """Tell people what they should do, because the watcher may not."""
        told = Told(key=f"{kind}-{start}", kind=kind, text=text, step=start)
        self._announcer.alert(told, f"{kind}-{start}")

    def _stop(self, action: Stop, now: Situation) -> None:
        """Give the command to stop for a person, and write that person a report."""
        if not self._announcer.outputs.may_command:
            self._advise(f"{action.reason}: without --no-orders it would give the command to stop", action.start)
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
        self._announcer.event(name, given)
        text = f"{action.reason}: gave the command to stop; a person must look, see {path}"
        look = f"less {shlex.quote(str(path))}"
        told = Told(key=ENDED, kind=Kind.FAILED, text=text, lasts=True, step=action.start, look=look)
        self._announcer.alert(told, name)


def _name_of(event: RolledBack | RollbackRefused | RollbackDone | Evidence | EvidenceRefused) -> str:
    """Return the name of the command that an event answers."""
    return event.command.removesuffix(".json")
