"""Watches where a run stands: tells people when it ended, is held or stands still, and when that is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.alerts.alert import ENDED_KINDS, HELD_BACK, NO_PROGRESS, Alert, Kind
from harness.alerts.desk import AlertDesk
from harness.alerts.endings import ending_alert, ending_id
from harness.config.operation import WatchConfig
from harness.errors import EXIT_REQUEUE
from harness.run.launches import LaunchRecord
from harness.run.paths import RunDir
from harness.run_state.facts import Facts, gather
from harness.run_state.slurm_job import Ask, ask_slurm
from harness.run_state.state import OVER, RUNNING, State, Word, state_of

_KINDS = {Word.FAILED: Kind.FAILED, Word.GONE: Kind.GONE, Word.FINISHED: Kind.FINISHED, Word.STOPPED: Kind.STOPPED}
_STEPPING = (Word.TRAINING, Word.EVALUATING, Word.SAVING)


@dataclass
class Standing:
    """Watches where one run stands. `look` is called repeatedly."""

    run_dir: RunDir
    settings: WatchConfig
    desk: AlertDesk
    show: Callable[[str], None]
    ask: Ask = ask_slurm
    clock: Callable[[], float] = time.monotonic
    looks_once: bool = False
    """True if there are no later looks, as by cron: then the times in the files count, and not the watcher's clock."""
    _before: Word | None = None
    _last_step: tuple[int, int] | None = None
    _last_step_at: float = 0.0
    """Time at which the last step was first seen, on the watcher's clock."""
    _open_at: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Attempt and step at which each alert of an end or a standstill was first seen open."""
    _running: str | None = None
    """Launch that was seen running in the last look; None if none was."""
    _running_since: float = 0.0
    """Time at which it was first seen so, on the watcher's clock."""

    def look(self) -> State | None:
        """Look once, tell people what they should know, and return the state; None if nothing was launched.

        What would page has to be seen twice in a row.

        Raises:
            OSError: From the disk.
            UsageError: The folder of the watcher cannot be used.
        """
        facts = gather(self.run_dir, self.ask)
        if facts is None:
            return None
        state = state_of(facts)
        self._note_step(facts)
        is_confirmed = state.word is self._before or not state.needs_person
        self._before = state.word
        if is_confirmed:
            self._tell(state)
        self._tell_stall(state, facts)
        self._tell_what_is_over(state, facts)
        return state

    def _note_step(self, facts: Facts) -> None:
        last = (facts.records[-1].attempt, facts.records[-1].step) if facts.records else (0, 0)
        if last != self._last_step:
            self._last_step, self._last_step_at = last, self.clock()

    def _tell(self, state: State) -> None:
        """Tell people once that the run has ended, or does not start by itself."""
        where = "" if state.launch is None else state.launch.folder.name
        if state.word is Word.HELD and state.needs_person:
            text = f"the job does not start by itself: {state.reason}"
            self.desk.tell(Alert(key=HELD_BACK, kind=Kind.HELD, text=text, lasts=True))
        elif (kind := _KINDS.get(state.word)) is not None:
            told = ending_alert(kind, state.reason)
            if self.desk.tell_of_end(told, ending_id(kind, where)):
                self.show(told.text)

    def _tell_stall(self, state: State, facts: Facts) -> None:
        """Tell people if the run is alive and nothing has been recorded for too long."""
        running = state.launch.folder.name if state.word in RUNNING and state.launch is not None else None
        if running != self._running:
            self._running, self._running_since = running, self.clock()
        idle_s = self.clock() - max(self._last_step_at, self._running_since)
        if self.looks_once:
            idle_s = facts.step_age_s or 0.0
        if running is None or idle_s < self.settings.stalled_after_s:
            return
        text = f"nothing has been recorded for {idle_s:.0f} s, and the run is {state.word}"
        reason = f": {state.reason}" if state.reason else ""
        self.desk.tell(Alert(key=NO_PROGRESS, kind=Kind.STALLED, text=text + reason, lasts=True))

    def _tell_what_is_over(self, state: State, facts: Facts) -> None:
        """Tell people that a run that had ended, or stood still, trains again."""
        assert self._last_step is not None, "it was noted before"
        found = [(kind, key) for kind in ENDED_KINDS for key in self.desk.open_keys(kind)]
        self._open_at = {key: self._open_at.get(key, self._last_step) for _, key in found}
        is_stepping = state.word in _STEPPING
        for kind, key in found:
            if kind is Kind.HELD:
                is_over, text = state.word is not Word.HELD, f"the run is {state.word}"
            else:
                is_over, text = is_stepping and self._has_stepped(key, facts), "the run trains again"
            if is_over and self.desk.end(key, text, self._last_step[1]):
                self.show(text)

    def _has_stepped(self, key: str, facts: Facts) -> bool:
        """Return whether the run has made a step since an alert was open."""
        if self.looks_once:
            return bool(facts.records) and facts.records[-1].time > self.desk.open_since(key)
        return self._open_at[key] != self._last_step


def is_over_for_good(state: State) -> bool:
    """Return whether nothing more will happen in a run by itself, so that nobody needs to watch it."""
    if state.word not in OVER:
        return False
    ended = state.launch.ended if isinstance(state.launch, LaunchRecord) else None
    is_pause = ended is not None and ended.exit_code == EXIT_REQUEUE and ended.action != "requeue"
    return not is_pause
