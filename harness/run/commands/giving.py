"""The sender's side of the mailbox: gives a run a command, and waits for its answer."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import EXIT_FINISHED, ConfigError, HarnessError, UsageError
from harness.json_text import parse_json
from harness.plan.schedule import phase_schedules
from harness.run.commands.command import MAX_REASON_LENGTH
from harness.run.commands.kinds import CommandKind
from harness.run.commands.mailbox import MAX_COMMAND_BYTES
from harness.run.commands.reach import problem_of, reach_of
from harness.run.commands.requests import AnyRequest, Rollback
from harness.run.event_types import Exit, Resumed, Started
from harness.run.events import kinds_of, last_event
from harness.run.files import read_regular, replace_file
from harness.run.heartbeats import active_beats, read_beats
from harness.run.lock import last_owner_of, owner_of
from harness.run.paths import RunDir

_MOST_BYTES = 1024**2
"""Size of an answer that is read. It holds a command of at most 64 KiB, and what came of it."""
STEP_AT_MOST_S = 600.0
"""Age of the metrics above which a run on another host, whose lock cannot be seen, does not seem to train."""


def give(run_dir: RunDir, request: AnyRequest, reason: str = "") -> Path:
    """Put a command into a run's mailbox and return its file.

    Raises:
        UsageError: There is no such run, it has finished or belongs to somebody else, it has not got the steps that the
            command names, the reason or the command is too long, or its mailbox cannot be written.
    """
    run_dir.require_run()
    if len(reason) > MAX_REASON_LENGTH:
        raise UsageError(
            f"the reason has {len(reason):,} characters; at most {MAX_REASON_LENGTH:,} are kept with a command"
        )
    require_possible(run_dir, request)
    is_trained = isinstance(request, Rollback) or _seems_to_train(run_dir)
    if not is_trained and (end := _finish(run_dir)) is not None:
        raise UsageError(
            f"the run in {run_dir.root} has finished at step {end.step}, and nobody trains there: {request.kind} would "
            "only disturb the next start. To train longer, add a phase to the configuration and start it again"
        )
    if not is_trained and request.kind is CommandKind.SAVE_AND_STOP:
        raise UsageError(
            f"nobody trains in {run_dir.root} now, so there is nothing to save and to stop: the command would only end "
            f"the next start. A start may be under way: look with `harness status {run_dir.root}`. To keep a job from "
            "starting, use `scontrol hold` or `scancel`; `stop` makes the next start leave for good"
        )
    return _write(run_dir, f"{request.kind}-{time.time_ns()}-{os.getpid()}", request, reason)


def require_possible(run_dir: RunDir, request: AnyRequest) -> None:
    """Return if a run may take a command of this user, and has the steps that it names.

    Raises:
        UsageError: It may not, or has not.
    """
    owner = run_dir.config.stat().st_uid
    if owner != os.geteuid():
        raise UsageError(
            f"{run_dir.root} belongs to user {owner}, and this is user {os.geteuid()}; only the user who trains may "
            "give commands"
        )
    config = _config_of(run_dir)
    problem = None if config is None else problem_of(request, reach_of(run_dir, config))
    if problem is not None:
        raise UsageError(f"{run_dir.root} cannot carry out {request.kind}: {problem}")


def give_once(run_dir: RunDir, name: str, request: AnyRequest, reason: str) -> bool:
    """Put the command `<name>.json` into the mailbox, unless it is there, or was carried out or rejected before.

    A program that gives a command by rule, and may be killed and started again at any moment, names it after its cause.
    However often it is given, it is carried out once.

    Returns:
        Whether it was put there.

    Raises:
        UsageError: The mailbox cannot be written.
    """
    if is_known(run_dir, name):
        return False
    _write(run_dir, name, request, reason)
    return True


def is_known(run_dir: RunDir, name: str) -> bool:
    """Return whether a command of this name waits, was carried out, or was rejected."""
    # In the direction in which a command moves: one that leaves the first place meanwhile is found in the second.
    return (run_dir.signals / f"{name}.json").exists() or is_answered(run_dir, name)


def is_answered(run_dir: RunDir, name: str) -> bool:
    """Return whether a command of this name was carried out or rejected."""
    if (run_dir.signals_rejected / f"{name}.json").exists():
        return True
    return any(run_dir.signals_done.glob(f"{name}-*.json"))


def wait_for(run_dir: RunDir, command: Path, *, timeout_s: float, poll_s: float = 0.2) -> dict[str, object]:
    """Wait until a command from `give` was carried out, and return its acknowledgement.

    Raises:
        UsageError: The run rejected or refused the command; or nobody trains there, or the run did not answer in time,
            and then the command stays where it is.
        HarnessError: The run could not save, as the command asks.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        is_trained = _seems_to_train(run_dir)  # checked before the look, which then finds the last acknowledgement
        if (outcome := next(acknowledgements(run_dir, command.stem), None)) is not None:
            return _require_done(outcome)
        with suppress(FileNotFoundError):
            reason = read_regular(run_dir.signals_rejected / f"{command.name}.reason", _MOST_BYTES)
            raise UsageError(f"the run rejected the command {command.name}: {reason.decode(errors='replace').strip()}")
        if not is_trained and command.name.startswith(f"{CommandKind.SAVE_AND_STOP}-"):
            command.unlink(missing_ok=True)
            raise UsageError(
                f"the run in {run_dir.root} ended before it took the command, which was withdrawn: it would only end "
                f"the next start; see `harness status {run_dir.root}`"
            )
        if not is_trained:
            raise UsageError(
                f"nobody seems to train in {run_dir.root}: the command waits in {command} and takes effect when "
                "training is started; remove the file to withdraw it"
            )
        if time.monotonic() >= deadline:
            raise UsageError(
                f"no answer from {run_dir.root} within {timeout_s:g} s: the command waits in {command} and takes "
                "effect at the end of the step; wait longer, or remove the file to withdraw it"
            )
        time.sleep(poll_s)


def _finish(run_dir: RunDir) -> Exit | None:
    """Return the event by which the last launch left because all was done; None if it left otherwise or not at all."""
    last = last_event(run_dir.events, kinds_of(Exit, Started, Resumed))
    if not isinstance(last, Exit) or last.exit_code != EXIT_FINISHED:
        return None
    if (config := _config_of(run_dir)) is None:
        return None
    num_steps = phase_schedules(config)[-1].last_step
    return last if last.step >= num_steps else None  # else `run.stop_at_step` made a pause


def _config_of(run_dir: RunDir) -> Config | None:
    try:
        return load_config(run_dir.config)
    except ConfigError:  # of a version with other fields
        return None


def _write(run_dir: RunDir, name: str, request: AnyRequest, reason: str) -> Path:
    file = run_dir.signals / f"{name}.json"
    content = json.dumps({"kind": request.kind, "reason": reason, **request.to_json()}) + "\n"
    if len(content) > MAX_COMMAND_BYTES:
        raise UsageError(
            f"the command {request.kind} has {len(content):,} bytes, and a run reads {MAX_COMMAND_BYTES:,} of one; "
            "give several commands"
        )
    try:
        run_dir.signals.mkdir(exist_ok=True)
        replace_file(file, content)
    except OSError as error:
        raise UsageError(
            f"cannot put a command into {run_dir.signals}: {error.strerror}; only the user who trains may give commands"
        ) from None
    return file


def acknowledgements(run_dir: RunDir, command: str = "*") -> Iterator[dict[str, object]]:
    """Give what the run answered to all commands, by file name, or to one: its file's name without an ending."""
    for done in sorted(run_dir.signals_done.glob(f"{command}-*.json")):
        try:
            outcome = parse_json(read_regular(done, _MOST_BYTES))
        except (OSError, ValueError):
            continue
        if (
            isinstance(outcome, dict) and "source" in outcome
        ):  # during the acknowledgement the command itself is at this path for a moment
            yield outcome


def _require_done(outcome: dict[str, object]) -> dict[str, object]:
    if (problem := outcome.get("refused")) is not None:
        raise UsageError(f"the run refused the command {outcome.get('source')}: {problem}")
    if outcome.get("saved") is False:
        raise HarnessError(
            f"the run took the command but saved nothing at step {outcome.get('step')}: {outcome.get('problem')}. "
            f"The last checkpoint is {outcome.get('last_checkpoint')}."
        )
    return outcome


def _seems_to_train(run_dir: RunDir) -> bool:
    """Return whether the run's lock is held, or signs of life are fresh where another host may lock invisibly."""
    if owner_of(run_dir) is not None:
        return True
    now = time.time()
    if any(not beat.is_quiet(now) for beat in active_beats(read_beats(run_dir))):
        return True
    owner = last_owner_of(run_dir)
    if owner is None or owner.host == socket.gethostname():
        return False
    try:
        return time.time() - run_dir.metrics.stat().st_mtime < STEP_AT_MOST_S
    except OSError:
        return False
