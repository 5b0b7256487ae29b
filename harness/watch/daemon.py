"""`harness watch`: looks at a run repeatedly until it has ended. A run has one watcher at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from harness.alerts.alert import ENDED, NO_PROGRESS, Alert, Kind
from harness.alerts.book_file import make_folder
from harness.alerts.desk import AlertDesk
from harness.alerts.endings import ending_alert, ending_id
from harness.alerts.trial import send_test
from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import (
    EXIT_FINISHED,
    EXIT_REQUEUE,
    EXIT_STOPPED_BY_PERSON,
    DataError,
    HarnessError,
    RunInUseError,
    UsageError,
)
from harness.run.event_types import Hung
from harness.run.files import open_own
from harness.run.launch_requests import request_kill
from harness.run.launches import CONFIG, launches
from harness.run.lock import owner_of
from harness.run.own_file import RefusedFileError, require_own_file
from harness.run.paths import RunDir
from harness.run.watcher_presence import is_watched_elsewhere, write_watcher_beat
from harness.run_state.state import RUNNING, Word
from harness.text import listed
from harness.watch.announcer import Outputs, WatcherEvents
from harness.watch.exposition import Address, served
from harness.watch.hang import HangWatch
from harness.watch.saved_state import LostStateError, WatchState, load_state, put_aside, save_state
from harness.watch.standing import Standing, is_over_for_good
from harness.watch.surroundings import shortage
from harness.watch.watcher import MOST_HISTORY, Watcher

_HEARTBEAT_EVERY_S = 5.0
_SURROUNDINGS_EVERY_S = 60.0
_STANDING_EVERY_S = 20.0
_CONFIRM_AFTER_S = 5.0
_RANKS_EVERY_S = 5.0
_DISK = "disk"
"""Key of the alert about the disk."""


def watch(  # noqa: PLR0913 (what the command line gives)
    run_dir: RunDir,
    *,
    once: bool,
    may_command: bool,
    alert_urls: Sequence[str],
    show: Callable[[str], None],
    metrics_at: Address | None = None,
    config_file: Path | None = None,
) -> None:
    """Watch a run until it has ended or a signal arrives, or for one look.

    `config_file` is the file of the configuration, if the one in the directory is not yet that of this launch.

    Raises:
        UsageError: There is no such run, it is not this user's, an alert cannot be delivered, or metrics cannot be
            served at `metrics_at`.
        RunInUseError: Another watcher watches it.
        DataError: A file of the run cannot be read, when looking once.
    """
    config = _own_config(run_dir, config_file or _config_of(run_dir))
    desk = AlertDesk.of(run_dir, config, alert_urls, may_send=may_command)
    make_folder(run_dir)
    if once and (other := is_watched_elsewhere(run_dir)) is not None:
        show(f"{run_dir.root} is watched: {other}")
        return
    with _holding_lock(run_dir):
        state, is_anew = _remembered(run_dir, desk, show)
        outputs = Outputs(events=WatcherEvents(run_dir.events), alerts=desk, show=show, may_command=may_command)
        watcher = Watcher(run_dir, config, state, outputs, is_anew=is_anew)
        show(f"watching {run_dir.root}: {_intention(config, may_command)}")
        if once:
            _look_once(run_dir, watcher, Standing(run_dir, config.watch, desk, show, looks_once=True))
            desk.tend(is_last=True)
            _save(run_dir, watcher.state, show)
        else:
            with served(watcher.latest, metrics_at):
                _WatchLoop(run_dir, config, watcher, outputs).run()


def look_at_each(
    runs: Sequence[RunDir], *, may_command: bool, alert_urls: Sequence[str], show: Callable[[str], None]
) -> None:
    """Look once at each of several runs. What stands in the way of one is shown, and the others are looked at.

    Raises:
        HarnessError: Some could not be looked at.
    """
    failed = []
    for run_dir in runs:
        try:
            watch(run_dir, once=True, may_command=may_command, alert_urls=alert_urls, show=show)
        except HarnessError as error:
            show(f"error: {error}")
            failed.append(run_dir.root)
    if failed:
        raise HarnessError(f"{len(failed)} of {len(runs)} runs could not be looked at: {listed(failed)}")


def try_alerts(
    run_dir: RunDir, config_file: Path | None, alert_urls: Sequence[str], show: Callable[[str], None]
) -> None:
    """Send a message to every place for the alerts of a run.

    Raises:
        UsageError: There is no such run, no place is configured, or one did not take the message.
    """
    config = _own_config(run_dir, config_file or _config_of(run_dir))
    send_test(AlertDesk.of(run_dir, config, alert_urls), show)


class _WatchLoop:
    """The loop of a watcher."""

    def __init__(self, run_dir: RunDir, config: Config, watcher: Watcher, outputs: Outputs) -> None:
        self._run_dir = run_dir
        self._settings = config.watch
        self._watcher = watcher
        self._outputs = outputs
        self._alerts = outputs.alerts
        self._show = outputs.show
        self._last_beat = self._last_surroundings = self._last_ranks = -_SURROUNDINGS_EVERY_S
        self._last_standing = -_STANDING_EVERY_S
        self._standing = Standing(run_dir, config.watch, outputs.alerts, outputs.show)
        self._comes_back = False
        """True if the job waits to go on, as far as the last look saw."""
        self._times_over = 0
        """Looks in a row in which the run was over for good."""
        limit_s = config.watch.kill_hung_after_s
        self._hang_watch = None if limit_s is None else HangWatch(run_dir, limit_s)

    def run(self) -> None:
        """Look at the run until it has ended or a signal arrives."""
        with _leaving_on_signals() as leaving, self._saying_when_it_leaves():
            while not leaving.is_set():
                has_ended = self._has_ended()  # checked before the look, which then reads the last lines
                self._look()
                if has_ended:
                    state = self._watcher.state
                    with suppress(OSError):
                        self._alerts.tend(is_last=True)
                        _save(self._run_dir, state, self._show)
                    code = "" if state.exit_code is None else f" with exit code {state.exit_code}"
                    self._show(f"training has ended at step {state.step}{code}")
                    return
                leaving.wait(self._settings.poll_s)

    @contextmanager
    def _saying_when_it_leaves(self) -> Iterator[None]:
        """Write a last heartbeat, so that whoever looks next does not wait for this watcher."""
        try:
            yield
        finally:
            step, may_command = self._watcher.state.step, self._outputs.may_command
            with suppress(OSError):
                write_watcher_beat(self._run_dir, step=step, may_command=may_command, has_left=True)

    def _look(self) -> None:
        """Look once. An error of the disk does not end the watcher: it tries again in the next round."""
        try:
            if self._watcher.look():
                _save(self._run_dir, self._watcher.state, self._show)
            self._beat()
            self._check_surroundings()
            self._check_for_hang()
        except (OSError, UsageError) as error:
            self._show(f"warning: {error}")

    def _has_ended(self) -> bool:
        """Look where the run stands; return whether it was over for good twice in a row.

        It is looked at more often when the trainer has left.
        """
        now = time.monotonic()
        is_ending = self._watcher.state.exit_code is not None and not self._comes_back
        every_s = 0.0 if is_ending or self._times_over else _STANDING_EVERY_S
        if now - self._last_standing < every_s:
            return False
        self._last_standing = now
        try:
            state = self._standing.look()
        except (OSError, UsageError) as error:
            self._show(f"warning: {error}")
            return False
        if state is None:
            return self._has_left_without_launch()
        self._comes_back = state.word in (Word.REQUEUED, Word.QUEUED, Word.HELD)
        self._times_over = self._times_over + 1 if is_over_for_good(state) else 0
        return self._times_over > 1

    def _has_left_without_launch(self) -> bool:
        """Return whether a run without a launcher has left for good, and alert people to how it ended."""
        code = self._watcher.state.exit_code
        if code is None or code == EXIT_REQUEUE or owner_of(self._run_dir) is not None:
            return False
        kind = {EXIT_FINISHED: Kind.FINISHED, EXIT_STOPPED_BY_PERSON: Kind.STOPPED}.get(code, Kind.FAILED)
        told = ending_alert(kind, f"it left with exit code {code} at step {self._watcher.state.step}")
        try:
            self._alerts.tell_of_end(told, f"{ending_id(kind, 'none')}-{self._watcher.state.attempt}-{code}")
        except (OSError, UsageError) as error:
            self._show(f"warning: {error}")
        return True

    def _beat(self) -> None:
        """Write the watcher's own heartbeat."""
        now = time.monotonic()
        if now - self._last_beat < _HEARTBEAT_EVERY_S:
            return
        self._last_beat = now
        write_watcher_beat(self._run_dir, step=self._watcher.state.step, may_command=self._outputs.may_command)

    def _check_surroundings(self) -> None:
        """Alert people if the disk is nearly full."""
        now = time.monotonic()
        if now - self._last_surroundings < _SURROUNDINGS_EVERY_S:
            return
        self._last_surroundings = now
        if (text := shortage(self._run_dir, self._settings)) is None:
            self._alerts.end(_DISK, f"at least {self._settings.least_free_gib:g} GiB are free again")
            return
        self._show(text)
        self._alerts.tell(Alert(key=_DISK, kind=Kind.DISK, text=text, lasts=True))

    def _check_for_hang(self) -> None:
        """Alert people if a launch hangs, and have it killed if the watcher may.

        It is requeued like after any other failure.
        """
        now = time.monotonic()
        if self._hang_watch is None or now - self._last_ranks < _RANKS_EVERY_S:
            return
        self._last_ranks = now
        if (hang := self._hang_watch.look()) is None:
            return
        outcome = "it is killed" if self._outputs.may_command else "only looking: it is left alone"
        if self._outputs.may_command:
            request_kill(hang.launch, hang.text)
        state = self._watcher.state
        hung = Hung(attempt=state.attempt, step=state.step, reason=hang.text, outcome=outcome)
        if self._outputs.events.write(f"hung-{hang.launch.name}", hung):
            text = f"launch {hang.launch.name} hangs: {hang.text}; {outcome}"
            self._show(text)
            kind, key = (Kind.KILLED, ENDED) if self._outputs.may_command else (Kind.HUNG, NO_PROGRESS)
            told = Alert(key=key, kind=kind, text=text, lasts=True, step=state.step)
            self._alerts.tell(told, f"hung-{hang.launch.name}")


def _own_config(run_dir: RunDir, path: Path) -> Config:
    """Return the configuration of a watch, in which nobody else may have written: it names commands and addresses.

    Raises:
        UsageError: It, or the state of the watcher, is not this user's.
        ConfigError: It is wrong.
    """
    for file in (path, run_dir.watch_state):
        _require_own(file)
    config = load_config(path)
    if config.watch.alert_command:
        _require_own(path, for_execution=True)
    return config


def _require_own(path: Path, *, for_execution: bool = False) -> None:
    try:
        require_own_file(path, for_execution=for_execution)
    except RefusedFileError as error:
        raise UsageError(
            f"{path} {error}. Nothing is done: it makes the watcher run commands, send alerts and steer the run, so "
            "only the user who trains may watch"
        ) from None


def _look_once(run_dir: RunDir, watcher: Watcher, standing: Standing) -> None:
    """Look once; an end that would page is looked at twice.

    Raises:
        DataError: A file of the run cannot be read.
    """
    try:
        watcher.look()
        state = standing.look()
        if state is not None and state.needs_person and state.word not in RUNNING:
            time.sleep(_CONFIRM_AFTER_S)
            standing.look()
    except OSError as error:
        raise DataError(f"{error.filename or run_dir.root} cannot be read: {error.strerror or error}") from None


def _config_of(run_dir: RunDir) -> Path:
    """Return the file with the configuration of a run: that of the newest submission, if none has started yet.

    Raises:
        UsageError: There is no such run.
    """
    if not run_dir.config.is_file():
        for record in reversed(launches(run_dir)):
            if (file := record.folder / CONFIG).is_file():
                return file
    run_dir.require_run()
    return run_dir.config


def _remembered(run_dir: RunDir, alerts: AlertDesk, show: Callable[[str], None]) -> tuple[WatchState, bool]:
    """Return the state to go on from, and whether it is new; alert people to a saved one that cannot be used."""
    path, state = run_dir.watch_state, WatchState()
    try:
        if (saved := load_state(path)) is not None:
            return saved, False
    except LostStateError as error:
        text = (
            f"the memory of the watcher, {path}, {error}. It begins anew: the run is judged by the last "
            f"{MOST_HISTORY:,} records of its metrics, and earlier rollbacks count against the budget. What happened "
            "since its last look is not told: see "
            f"`harness status {run_dir.root}` and {run_dir.watch_alerts}"
        )
        show(f"warning: {text}")
        try:
            alerts.tell(Alert(key="watcher", kind=Kind.WATCHER, text=text))
            show(f"the file is kept as {put_aside(path)}")
        except OSError as failure:
            show(f"warning: {failure}")
    return state, True


def _intention(config: Config, may_command: bool) -> str:
    if not may_command:
        return "only looking: no commands, and nothing is sent"
    if config.watch.action == "alert":
        return "alerts only (watch.action: alert)"
    return "rolling back by itself (watch.action: rollback)"


def _save(run_dir: RunDir, state: WatchState, show: Callable[[str], None]) -> None:
    """Save the watcher's state. If the disk refuses, the next look reads the same lines again."""
    try:
        save_state(run_dir.watch_state, state)
    except OSError as error:
        show(f"warning: cannot write {run_dir.watch_state}: {error.strerror}")


@contextmanager
def _holding_lock(run_dir: RunDir) -> Iterator[None]:
    """Hold the watcher's lock. The kernel releases it however the watcher dies."""
    try:
        descriptor = open_own(run_dir.watch_lock)
    except OSError as error:
        word = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise UsageError(
            f"cannot open {run_dir.watch_lock}: {word}; it must be a file of the user who trains"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUseError(
                f"{run_dir.root} is being watched already, and a run has one watcher at a time; "
                f"see {run_dir.watch_heartbeat} for where, and stop that one first"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _leaving_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set, so that a round is finished first."""
    leaving = threading.Event()

    def leave(_number: int, _frame: FrameType | None) -> None:
        leaving.set()

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield leaving
    finally:
        for number, what in before.items():
            signal.signal(number, what)
