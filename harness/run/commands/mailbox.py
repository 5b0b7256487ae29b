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
from itertools import chain, count, islice
from pathlib import Path
from typing import NamedTuple

import xxhash

from harness.run.commands.command import Command, is_command_name, parse_command, require_command_name
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import PLAIN_KINDS, AnyRequest, UnreadableCommandError
from harness.run.files import STAGING_SUFFIX, replace_file
from harness.run.own_file import RefusedFileError, is_refused, read_own_file
from harness.run.paths import RunDir
from harness.text import one_line

MAX_COMMAND_BYTES = 64 * 1024
MAX_FILES_PER_POLL = 64
"""Commands that a poll returns, together with other files that it moves away: each costs writes."""
MAX_READ_PER_POLL = 1024
"""Files that a poll reads. People give a few commands; thousands of files are an accident, and may not stall a step."""
MAX_LISTED_PER_POLL = 50_000
"""Names that a poll lists: a few hundredths of a second."""
_MAX_NAME_BYTES = 150
"""Bytes of a name in `done/` and `rejected/`, of the 255 that a file system takes: step, number and suffix follow."""
UNFINISHED_S = 2.0
"""Time after which a file that is not a command is rejected. Until then it may still be being written."""

_FOLDERS = ("done", "rejected")
_WRITING = (STAGING_SUFFIX, ".tmp")
"""Suffixes of files that are being written, by us, by people and by earlier versions, who rename them afterwards."""


_File = tuple[str, int]
"""Name and inode of a file in the folder."""


class _Place(NamedTuple):
    """A place in the order in which files are looked at."""

    is_refused: bool
    """True if it is not read, because of its kind or its owner."""
    is_named_freely: bool
    minus_changed_ns: int


_FIRST, _LAST = _Place(False, False, 0), _Place(True, True, 0)  # noqa: FBT003 (their fields have names)


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
        problem_of: Callable[[AnyRequest], str | None] = lambda request: None,
        begun: float = 0.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the run.

        `problem_of` returns why the run rejects a request that is well-formed; None if it does not. `begun` is the time
        at which this launch began, by the clock of the file system: a command to come back that is older was carried
        out by that.
        """
        self._run_dir = run_dir
        self._problem_of = problem_of
        self._begun = begun
        self._clock = clock
        self._monotonic = monotonic
        self._known: set[_File] = set()
        """Files that need no second look: returned by `poll`, or impossible to move away."""
        self._places: dict[_File, _Place] = {}
        """Places of the files that the last poll found, so that each is examined once."""
        self._unfinished: dict[_File, tuple[int, float]] = {}
        """Time of the last change of each file that was no command, and since when it was found unchanged."""
        self._num_moves_left = 0
        """Number of files that this poll may still move."""
        self._in_hand: dict[str, _File] = {}
        """Files of commands that `poll` returned and that are not acknowledged, by the command's id."""
        self._acknowledged: dict[str, Path] = {}
        self._unwritten: dict[str, _Unwritten] = {}
        """Acknowledgements that the disk did not take, by the command's id."""
        self._num_commands = 0
        run_dir.signals_done.mkdir(parents=True, exist_ok=True)
        run_dir.signals_rejected.mkdir(parents=True, exist_ok=True)
        self._finish_acknowledgements()

    def poll(self) -> list[Command]:
        """Return the commands that arrived since the last poll, each once: plain names first, then the newest.

        The work of a poll is bounded, whatever lies in the folder: files that nobody has looked at come before those
        that were no commands at the last look, at most `MAX_READ_PER_POLL` are read, and `MAX_FILES_PER_POLL` returned
        or moved away; the rest waits for the next poll. A folder that cannot be read has no commands. An
        acknowledgement that the disk did not take is tried again.
        """
        for unwritten in list(self._unwritten.values()):
            self.acknowledge(unwritten.command, unwritten.outcome)
        try:
            fresh = self._fresh_files()
        except OSError:
            return []
        commands: list[Command] = []
        self._num_moves_left = MAX_FILES_PER_POLL
        for file in [file for file in fresh if _may_be_command(file, fresh[file])][:MAX_READ_PER_POLL]:
            if len(commands) >= MAX_FILES_PER_POLL:
                break
            if (command := self._take(*file)) is not None:
                commands.append(command)
        self._num_moves_left -= len(commands)
        for file in [file for file in fresh if not _may_be_command(file, fresh[file])][: max(0, self._num_moves_left)]:
            self._turn_away(*file)
        return commands

    def _fresh_files(self) -> dict[_File, _Place]:
        """Return the files that are not known, in the order in which to look at them. Each is examined once.

        Raises:
            OSError: The folder cannot be listed.
        """
        found: dict[_File, _Place] = {}
        with os.scandir(self._run_dir.signals) as entries:
            listed = list(islice(entries, MAX_LISTED_PER_POLL))
        for entry in listed:
            if not _is_passed_over(entry.name):
                file = (entry.name, entry.inode())
                found[file] = self._places.get(file) or _place_of(entry)
        if len(listed) < MAX_LISTED_PER_POLL:
            self._known &= found.keys()
        else:  # these are never hidden by others
            found |= {(kind, inode): _FIRST for kind in PLAIN_KINDS if (inode := self._inode_of(kind)) is not None}
        self._places = found
        self._unfinished = {file: since for file, since in self._unfinished.items() if file in found}
        ordered = sorted(found.keys() - self._known, key=lambda file: (file in self._unfinished, found[file], file))
        return {file: found[file] for file in ordered}

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
                name = f"{_short_name(command.source.removesuffix('.json'))}-{suffix}"
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
        if (in_hand := self._in_hand.get(command.id)) and self._inode_of(command.source) == in_hand[1]:
            (self._run_dir.signals / command.source).rename(done)

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
            if self._is_finished((name, inode), status.st_mtime_ns):
                self._reject(name, inode, str(error))
            return None
        try:
            problem = self._expiry(command.kind, status.st_mtime) or self._problem_of(command.request)
        except OSError:  # the disk does not say: the next poll asks again
            return None
        if problem is not None:
            self._reject(name, inode, problem)
            return None
        self._known.add((name, inode))
        self._unfinished.pop((name, inode), None)
        self._in_hand[command.id] = (name, inode)
        return command

    def _expiry(self, kind: CommandKind, given: float) -> str | None:
        """Return why a command of this kind is not carried out any more; None if it is."""
        if kind is not CommandKind.SAVE_AND_STOP or given >= self._begun:
            return None
        return (
            "it was given before this launch began, and would end it at once: the run has stopped and come back since. "
            "Give it again if it is meant for this launch"
        )

    def _turn_away(self, name: str, inode: int) -> None:
        """Move a file away that cannot be a command, by its name or its owner."""
        try:
            read_own_file(self._run_dir.signals / name, max_bytes=MAX_COMMAND_BYTES)
            require_command_name(name)
        except (RefusedFileError, UnreadableCommandError) as error:
            self._reject(name, inode, str(error))
        except OSError:  # gone
            return

    def _is_finished(self, file: _File, changed_ns: int) -> bool:
        """Return whether a file that is not a command has stayed unchanged for `UNFINISHED_S`."""
        now = self._monotonic()
        before, since = self._unfinished.get(file, (None, now))
        if before != changed_ns:
            since = now
        self._unfinished[file] = (changed_ns, since)
        return now - since >= UNFINISHED_S

    def _reject(self, name: str, inode: int, reason: str) -> None:
        if self._num_moves_left <= 0:
            return
        self._num_moves_left -= 1
        rejected = _free_path(self._run_dir.signals_rejected, _short_name(one_line(name)), "")
        try:
            replace_file(Path(f"{rejected}.reason"), f"{one_line(reason)}\n", durable=False)
            (self._run_dir.signals / name).rename(rejected)
        except OSError:  # another user's file, or a full disk: it was examined once and stays there
            self._known.add((name, inode))

    def _inode_of(self, name: str) -> int | None:
        try:
            return (self._run_dir.signals / name).lstat().st_ino
        except FileNotFoundError:
            return None

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


def _place_of(entry: os.DirEntry[str]) -> _Place:
    """Return the place of a file in the order of the looks: plain names, then the newest; what is refused is last."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # gone
        return _LAST
    return _Place(is_refused(status), entry.name not in PLAIN_KINDS, -status.st_mtime_ns)


def _may_be_command(file: _File, place: _Place) -> bool:
    """Return whether a file must be read to know whether it is a command."""
    return is_command_name(file[0]) and not place.is_refused


def _short_name(name: str) -> str:
    """Return a name with room for what is put behind it. A long one is cut, and told apart by a hash of all of it."""
    whole = name.encode()
    if len(whole) <= _MAX_NAME_BYTES:
        return name
    digest = xxhash.xxh3_64_hexdigest(whole)
    return f"{whole[: _MAX_NAME_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"


def _free_path(folder: Path, stem: str, suffix: str) -> Path:
    """Return the first path of `<stem><suffix>`, `<stem>-2<suffix>` … that does not exist."""
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    return next(path for name in names if not os.path.lexists(path := folder / f"{name}{suffix}"))
