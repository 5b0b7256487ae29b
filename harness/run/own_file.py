"""Reads a file only if it is a small regular file of this user without hard links: the check of all that steers a run.

A run's folder may lie where others can write. What makes a trainer, a launcher or a watcher act is therefore used only
if it belongs to the user whose process reads it; `STEERING` lists it all. Only this module compares owners.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from harness.json_text import parse_json
from harness.run.small_files import MOST_BYTES


class Steering(NamedTuple):
    """A file of a run by which somebody makes its processes act."""

    path: str
    """Its place in the run's folder."""
    effect: str
    """The effect that it has."""
    reader: str
    """The process that uses it, only if it is a file of its own user."""
    otherwise: str
    """The answer to a file of somebody else."""


STEERING = (
    Steering("signals/*", "commands, quarantine of documents", "trainer", "rejected with the reason"),
    Steering("launches/*/kill.json", "kills the workers of a launch", "launcher", "no request"),
    Steering("launches/*/stacks.request", "writes down the stacks of the workers", "launcher", "no request"),
    Steering("launches/*/bad_node*.json", "excludes nodes from the next launch", "launcher", "excludes nothing"),
    Steering("launches/*/launch.json", "the launches that count, their ranks", "launcher, watcher", "no launch"),
    Steering("launches/*/node_*.json", "whether the job comes back", "launcher", "a node without a word"),
    Steering("launches/*/ended.json", "whether the job comes back, no more hangs", "launcher, watcher", "none"),
    Steering("heartbeats/*_*.json", "whether a launch hangs and is killed", "watcher", "ranks without heartbeat"),
    Steering("watch/heartbeat.json", "lets a rank wait for the watcher", "trainer", "no watcher"),
    Steering("order.jsonl", "quarantine, adopted parts, samples to skip", "trainer", "refuses to start"),
    Steering("config.yaml", "the watcher's command, addresses and limits", "watcher", "refuses to watch"),
    Steering("watch/state.json", "commands that are due", "watcher", "refuses to watch"),
    Steering("watch/alerts.json", "alerts that are due", "watcher, launcher", "put aside, and people are told"),
)
"""Everything that steers a run, beside the checkpoints, which a key can sign (`checkpoint.signature_key_file`)."""

_LASTING_ERRORS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
"""Errors that depend on the file alone, so that a second try fails in the same way."""
_KINDS = {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "directory", stat.S_IFIFO: "named pipe"}


class RefusedFileError(ValueError):
    """A file that is not read. The text gives the reason."""


def require_own_file(path: Path, *, or_owner_of: Path | None = None, for_execution: bool = False) -> None:
    """Return if a file is a regular one of this user, or is not there.

    `or_owner_of` names a folder whose owner is trusted too. With `for_execution` nobody else may write to the file
    either. The user's own group counts as the user: many systems give every user a group, and let it write.

    Raises:
        RefusedFileError: It is not.
        OSError: The disk does not say.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    _require_regular(status)
    trusted = {os.geteuid()} | ({or_owner_of.stat().st_uid} if or_owner_of is not None else set())
    if status.st_uid not in trusted:
        raise RefusedFileError(f"belongs to user {status.st_uid}, and this is user {os.geteuid()}")
    others = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid != os.getegid() else 0)
    if for_execution and status.st_mode & others:
        raise RefusedFileError("can be changed by other users; take that right away with `chmod go-w`")


def is_own_file(path: Path) -> bool:
    """Return whether a path is that of a regular file of this user without hard links."""
    try:
        _require_own(path.lstat())
    except (OSError, RefusedFileError):
        return False
    return True


def read_own_file(path: Path, *, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return content and status of a file that anybody may have put there.

    It is checked by name first, because opening a pipe or a device can have effects. It is checked again once it is
    open, because it may have been replaced in between.

    Raises:
        RefusedFileError: It is not a regular file of this user, it is too large, or it may not be read.
        FileNotFoundError: It is gone.
        OSError: It could not be read at the moment, for a reason outside of the file, such as the disk.
    """
    try:
        _require_own(path.lstat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123  (a path cannot carry these flags)
            status = os.fstat(descriptor)
            _require_own(status)
            content = file.read(max_bytes + 1)
    except OSError as error:
        if error.errno not in _LASTING_ERRORS:
            raise
        raise RefusedFileError(f"cannot be read: {error.strerror}") from None
    if len(content) > max_bytes:
        raise RefusedFileError(f"larger than {max_bytes >> 10} KiB; a command is a line or two")
    return content, status


def read_own_json(path: Path) -> object:
    """Return the JSON value in a file, which is read as `read_own_file` does.

    Raises:
        OSError: As `read_own_file` does.
        ValueError: It is refused, or does not hold JSON.
    """
    return parse_json(read_own_file(path, max_bytes=MOST_BYTES)[0])


def is_refused(status: os.stat_result) -> bool:
    """Return whether `read_own_file` would refuse a file with this status, whatever it holds."""
    try:
        _require_own(status)
    except RefusedFileError:
        return True
    return False


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device or socket")
        raise RefusedFileError(f"a {kind}, not a regular file")


def _require_own(status: os.stat_result) -> None:
    _require_regular(status)
    if status.st_uid != os.geteuid():
        raise RefusedFileError(f"belongs to user {status.st_uid}; commands come from the user who trains")
    if status.st_nlink > 1:
        raise RefusedFileError("a second name of another file (a hard link); write a file of its own")
