"""The mailbox: the folder through which commands reach a running job, as global rank 0 sees it.

A command's file stays in place until the command is acknowledged, so that a crash in between does not lose it. It then
moves to `done/<name>-<step>.json` with its outcome. Other files move to `rejected/`, beside a `.reason`. Only regular
files of the user who trains count: otherwise anyone who can write to the folder could stop the run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from harness.run.commands.command import Command, is_command_name, parse_command
from harness.run.commands.requests import PLAIN_KINDS, UnreadableCommandError
from harness.run.files import STAGING_SUFFIX, replace_file
from harness.run.own_file import RefusedFileError, read_own_file
from harness.run.paths import RunDir

MAX_COMMAND_BYTES = 64 * 1024
MAX_FILES_PER_POLL = 64
UNFINISHED_S = 2.0
"""Time after which a file that is not a command is rejected. Until then it may still be being written."""

_FOLDERS = ("done", "rejected")
_WRITING = (STAGING_SUFFIX, ".tmp")
"""Suffixes of files that are being written, by us, by people and by earlier versions, who rename them afterwards."""


class _Unwritten(NamedTuple):
    """An acknowledgement of which the disk took nothing, or only a part."""

    command: Command
    outcome: Mapping[str, object]
    done: Path | None
    """Its path in `done/`, if it was begun. The command itself may be at that path."""


class Mailbox:
    """Finds commands and acknowledges them. Only global rank 0 has one. The folder is made if missing."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._monotonic = monotonic
        self._known: set[tuple[str, int]] = set()
        """(name, inode) of files that need no second look: returned by `poll`, or impossible to move away."""
        self._unfinished: dict[tuple[str, int, int], float] = {}
        """Time at which a file (name, inode, time of its last change) was first found not to be a command."""
        self._in_hand: dict[str, tuple[str, int]] = {}
        """(name, inode) of commands that `poll` returned and that are not acknowledged, by the command's id."""
        self._acknowledged: dict[str, Path] = {}
        self._unwritten: dict[str, _Unwritten] = {}
        """Acknowledgements that the disk did not take, by the command's id."""
        self._num_commands = 0
        run_dir.signals_done.mkdir(parents=True, exist_ok=True)
        run_dir.signals_rejected.mkdir(parents=True, exist_ok=True)
        self._finish_acknowledgements()

    def poll(self) -> list[Command]:
        """Return the commands that arrived since the last poll, each once, those with plain names first.

        Lists the folder once if it is empty. At most `MAX_FILES_PER_POLL` files are opened or moved; the rest waits for
        the next poll. A folder that cannot be read has no commands. An acknowledgement that the disk did not take is
        tried again.
        """
        for unwritten in list(self._unwritten.values()):
            self.acknowledge(unwritten.command, unwritten.outcome)
        try:
            with os.scandir(self._run_dir.signals) as entries:
                found = {(entry.name, entry.inode()) for entry in entries if not _is_passed_over(entry.name)}
        except OSError:
            return []
        self._known &= found
        fresh = sorted(found - self._known, key=lambda file: (file[0] not in PLAIN_KINDS, file))
        return [command for file in fresh[:MAX_FILES_PER_POLL] if (command := self._take(*file)) is not None]

    def acknowledge(self, command: Command, outcome: Mapping[str, object]) -> Path | None:
        """Move the command's file to `done/` and write the outcome. A second call for the same command does nothing.

        The command is from `poll`, or it came as a signal and has no file. The `step` of the outcome becomes part of
        the file's name. Returns the file in `done/`, or None if the disk did not take it yet. Either way the command
        is not handed out again.
        """
        if command.id in self._acknowledged:
            return self._acknowledged[command.id]
        now = self._clock()
        fields = {
            "kind": command.kind,
            "reason": command.reason,
            "source": command.source,
            "time": round(now, 3),
            **outcome,
        }
        step = outcome.get("step")
        suffix = f"{step:07d}" if isinstance(step, int) else f"{now:.3f}"
        begun = self._unwritten.get(command.id)
        done = begun.done if begun is not None else None
        try:
            if done is None:
                name = f"{command.source.removesuffix('.json')}-{suffix}"
                done = _free_path(self._run_dir.signals_done, name, ".json")
            # Moved before it is replaced: whenever this process dies, the command is either waiting or done.
            moved = partial(self._move, command, done)
            replace_file(done, json.dumps(fields, default=str) + "\n", before_rename=moved)
        except OSError:
            self._unwritten[command.id] = _Unwritten(command, outcome, done)
            return None
        self._unwritten.pop(command.id, None)
        self._known.discard(self._in_hand.pop(command.id, ("", 0)))  # the next file of that name is another command
        self._acknowledged[command.id] = done
        return done

    def _move(self, command: Command, done: Path) -> None:
        """Move the file of a command, unless another command has taken its place or it was moved before."""
        file = self._run_dir.signals / command.source
        if (in_hand := self._in_hand.get(command.id)) and _inode(file) == in_hand[1]:
            file.rename(done)

    def _take(self, name: str, inode: int) -> Command | None:
        """Return the command in a file. Another file is moved away, and one that vanished is ignored."""
        try:
            content, status = read_own_file(self._run_dir.signals / name, max_bytes=MAX_COMMAND_BYTES)
        except OSError:  # gone, or unreadable at the moment: the next poll finds it if it is there
            return None
        except RefusedFileError as error:
            self._reject(name, inode, str(error))
            return None
        self._num_commands += 1
        try:
            command = parse_command(name, content, f"{name}#{self._num_commands}", status.st_mtime_ns)
        except UnreadableCommandError as error:
            if not is_command_name(name) or self._is_finished((name, inode, status.st_mtime_ns)):
                self._reject(name, inode, str(error))
            return None
        self._known.add((name, inode))
        self._in_hand[command.id] = (name, inode)
        return command

    def _is_finished(self, file: tuple[str, int, int]) -> bool:
        """Return whether a file that is not a command has stayed unchanged for `UNFINISHED_S`."""
        now = self._monotonic()
        since = self._unfinished.setdefault(file, now)
        if now - since < UNFINISHED_S:
            return False
        del self._unfinished[file]
        return True

    def _reject(self, name: str, inode: int, reason: str) -> None:
        rejected = _free_path(self._run_dir.signals_rejected, os.fsdecode(os.fsencode(name)[:150]), "")
        try:
            replace_file(Path(f"{rejected}.reason"), f"{reason}\n".encode(errors="backslashreplace"), durable=False)
            (self._run_dir.signals / name).rename(rejected)
        except OSError:  # another user's file, or a full disk: it was examined once and stays there
            self._known.add((name, inode))

    def _finish_acknowledgements(self) -> None:
        """Complete acknowledgements that a crash interrupted between the renames; remove unusable ones.

        What the disk refuses waits for the next start: acknowledgements are for people.
        """
        with suppress(OSError):
            for written in chain.from_iterable(self._run_dir.signals_done.glob(f"*.json{each}") for each in _WRITING):
                done = written.with_suffix("")
                with suppress(OSError):
                    if done.exists():
                        written.rename(done)
                    else:
                        written.unlink()


def _is_passed_over(name: str) -> bool:
    """Return whether the mailbox ignores a name in the folder: own folders, hidden files, files being written."""
    return name in _FOLDERS or name.startswith(".") or is_being_written(name)


def is_being_written(name: str) -> bool:
    """Return whether a name in the folder is that of an unfinished file."""
    return name.endswith(_WRITING)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def _free_path(folder: Path, stem: str, suffix: str) -> Path:
    """Return the first path of `<stem><suffix>`, `<stem>-2<suffix>` … that does not exist."""
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    return next(path for name in names if not os.path.lexists(path := folder / f"{name}{suffix}"))
