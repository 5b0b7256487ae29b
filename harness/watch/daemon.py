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

from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import EXIT_REQUEUE, DataError, RunInUseError, UsageError
from harness.run.event_types import Hung
from harness.run.files import open_own
from harness.run.launch_requests import request_kill
from harness.run.lock import owner_of
from harness.run.own_file import RefusedFileError, require_own_file
from harness.run.paths import RunDir
from harness.run.watcher_presence import write_watcher_beat
from harness.watch.alerts import Alerts
from harness.watch.announcer import Outputs, WatcherEvents
from harness.watch.delivery import deliveries
from harness.watch.exposition import Address, served
from harness.watch.hang import HangWatch
from harness.watch.saved_state import LostStateError, WatchState, load_state, put_aside, save_state
from harness.watch.surroundings import shortage, stall
from harness.watch.watcher import MOST_HISTORY, Watcher

_HEARTBEAT_EVERY_S = 5.0
_SURROUNDINGS_EVERY_S = 60.0
_RANKS_EVERY_S = 5.0


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
    run_dir.require_run()
    config = _own_config(run_dir, config_file or run_dir.config)
    settings = config.watch
    places = deliveries(settings.alert_command, settings.alert_urls_file, alert_urls) if may_command else []
    try:
        run_dir.watch.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {run_dir.watch}: {error.strerror}; only the user who trains may watch") from None
    with _holding_lock(run_dir):
        alerts = Alerts(run_dir.watch_alerts, config.run.name, places, settings.alert_every_s)
        state, is_anew = _remembered(run_dir, alerts, show)
        outputs = Outputs(events=WatcherEvents(run_dir.events), alerts=alerts, show=show, may_command=may_command)
        watcher = Watcher(run_dir, config, state, outputs, is_anew=is_anew)
        show(f"watching {run_dir.root}: {_intention(config, may_command)}")
        if once:
            _look_once(run_dir, watcher)
            _save(run_dir, watcher.state, show)
        else:
            with served(watcher.latest, metrics_at):
                _WatchLoop(run_dir, config, watcher, outputs).run()


class _WatchLoop:
    """The loop of a watcher."""

    def __init__(self, run_dir: RunDir, config: Config, watcher: Watcher, outputs: Outputs) -> None:
        self._run_dir = run_dir
        self._settings = config.watch
        self._watcher = watcher
        self._outputs = outputs
        self._alerts = outputs.alerts
        self._show = outputs.show
        self._last_change_s = time.monotonic()
        self._last_beat = self._last_surroundings = self._last_ranks = -_SURROUNDINGS_EVERY_S
        limit_s = config.watch.kill_hung_after_s
        self._hang_watch = None if limit_s is None else HangWatch(run_dir, limit_s)

    def run(self) -> None:
        """Look at the run until it has ended or a signal arrives."""
        with _leaving_on_signals() as leaving:
            while not leaving.is_set():
                has_ended = self._has_ended()  # checked before the look, which then reads the last lines
                self._look()
                if has_ended:
                    state = self._watcher.state
                    with suppress(OSError):
                        self._alerts.deliver(state, is_last=True)
                        _save(self._run_dir, state, self._show)
                    self._show(f"training has ended at step {state.step} with exit code {state.exit_code}")
                    return
                leaving.wait(self._settings.poll_s)

    def _look(self) -> None:
        """Look once. An error of the disk does not end the watcher: it tries again in the next round."""
        try:
            if self._watcher.look():
                self._last_change_s = time.monotonic()
                _save(self._run_dir, self._watcher.state, self._show)
            self._beat()
            self._check_surroundings()
            self._check_for_hang()
        except (OSError, UsageError) as error:
            self._show(f"warning: {error}")

    def _has_ended(self) -> bool:
        """Return whether the newest launch has ended for good and nobody holds the run's lock."""
        code = self._watcher.state.exit_code
        return code is not None and code != EXIT_REQUEUE and owner_of(self._run_dir) is None

    def _beat(self) -> None:
        """Write the watcher's own heartbeat."""
        now = time.monotonic()
        if now - self._last_beat < _HEARTBEAT_EVERY_S:
            return
        self._last_beat = now
        write_watcher_beat(self._run_dir, step=self._watcher.state.step, may_command=self._outputs.may_command)

    def _check_surroundings(self) -> None:
        """Alert people if nothing is recorded any more, or the disk is nearly full."""
        now = time.monotonic()
        if now - self._last_surroundings < min(_SURROUNDINGS_EVERY_S, self._settings.stalled_after_s):
            return
        self._last_surroundings = now
        state = self._watcher.state
        is_running = state.exit_code is None
        stalled = stall(self._run_dir, self._settings, now - self._last_change_s) if is_running else None
        for kind, text in (("stalled", stalled), ("disk", shortage(self._run_dir, self._settings))):
            if text is not None:
                self._show(text)
                self._alerts.alert(state, kind, text)

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
            self._alerts.alert(state, "hung", text)


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


def _look_once(run_dir: RunDir, watcher: Watcher) -> None:
    """Look once.

    Raises:
        DataError: A file of the run cannot be read.
    """
    try:
        watcher.look()
    except OSError as error:
        raise DataError(f"{error.filename or run_dir.root} cannot be read: {error.strerror or error}") from None


def _remembered(run_dir: RunDir, alerts: Alerts, show: Callable[[str], None]) -> tuple[WatchState, bool]:
    """Return the state to go on from, and whether it is new. People are told of one that cannot be used."""
    path, state = run_dir.watch_state, WatchState()
    try:
        if (saved := load_state(path)) is not None:
            return saved, False
    except LostStateError as error:
        text = (
            f"the memory of the watcher, {path}, {error}. It begins anew: the run is judged by the last "
            f"{MOST_HISTORY:,} records of its metrics, and earlier rollbacks count against the budget. What happened "
            "since its last look, and alerts that were not delivered, are not sent again: see "
            f"`harness status {run_dir.root}` and {run_dir.watch_alerts}"
        )
        show(f"warning: {text}")
        try:
            alerts.alert(state, "watcher", text)
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
