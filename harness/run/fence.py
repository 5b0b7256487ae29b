"""Tokens that decide who may publish in a run's directory: only the holder of the highest one.

A lock keeps out those who ask for it. It does not stop a trainer that lost it without noticing: one that was stopped,
or cut off from the file system, while its node was given up and another trainer took its place. Nor does it stop a
second trainer where `flock` works only within one machine. So whoever takes the run makes the file
`<run>/fence/<token>` with the next number, which two processes cannot both make, and removes the lower ones. A writer
opens its own file right before it publishes. It opens it by name, because file systems check an open with the server,
while a listing may be a minute old.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import RunTakenOverError, UsageError
from harness.run.files import fsync_folder
from harness.run.paths import RunDir

MOST_TOKEN = 10**18 - 1
"""Higher than any run comes. A file of this number or above was put there by somebody else."""
_NAME = re.compile(r"[0-9]{7,18}")
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


@dataclass(frozen=True, kw_only=True)
class Fence:
    """The right to publish in a run's directory, as long as nobody takes the run after us."""

    run_dir: RunDir
    token: int

    def require_held(self) -> None:
        """Return if nobody has taken the run since. Reads one name and changes nothing.

        Raises:
            RunTakenOverError: Somebody has.
            OSError: The file system does not say.
        """
        try:
            os.close(os.open(_path(self.run_dir, self.token), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise RunTakenOverError(self._taken_over_text()) from None

    def _taken_over_text(self) -> str:
        newest = max(_tokens(self.run_dir), default=None)
        who = f"whoever holds token {newest}" if newest is not None else "somebody who removed its fence folder"
        return (
            f"{self.run_dir.root} was taken over by {who}, while this process held token {self.token}: it was stopped, "
            "or cut off from the file system, and a run has one trainer at a time. It has published nothing since and "
            "leaves. Nothing is lost: the run goes on there, or `harness train` takes it over again"
        )


@contextmanager
def reporting_takeover(fence: Fence | None) -> Iterator[None]:
    """Raise `RunTakenOverError` in place of an error of the `with` block, if somebody has taken the run over.

    Whoever takes a run over removes half-written files. To their writer that looks like a broken file system.

    Raises:
        RunTakenOverError: In the place of any other error.
    """
    try:
        yield
    except Exception as error:
        if fence is not None:
            try:
                with suppress(OSError):
                    fence.require_held()
            except RunTakenOverError as taken:
                raise taken from error
        raise


def claim(run_dir: RunDir) -> Fence:
    """Take the next number, and with it the right to publish from everyone who had it before.

    When this returns, what earlier owners publish is either complete or will be refused.

    Raises:
        UsageError: The file system refuses.
    """
    folder = run_dir.fence
    try:
        folder.mkdir(exist_ok=True)
        token = _make_next(run_dir)
        for older in _tokens(run_dir):
            if older < token:
                _path(run_dir, older).unlink(missing_ok=True)
        fsync_folder(folder)
    except OSError as error:
        raise UsageError(
            f"cannot take the run directory {run_dir.root}: {error.strerror} ({error.filename or folder}). Nothing was "
            "started; it must be writable and have room, choose another one with --run-dir"
        ) from None
    return Fence(run_dir=run_dir, token=token)


def _make_next(run_dir: RunDir) -> int:
    """Make the file of the lowest free number above all others, durably."""
    token = max(_tokens(run_dir), default=0) + 1
    while True:
        if token > MOST_TOKEN:
            above = str(_path(run_dir, token - 1))
            raise OSError(errno.ERANGE, "no number is left above this one, which no run made: remove it", above)
        try:
            descriptor = os.open(_path(run_dir, token), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:  # another process took this number
            token += 1
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # After a power cut this name must be there before the lower ones are gone, so that numbers only grow.
        fsync_folder(run_dir.fence)
        return token


def _tokens(run_dir: RunDir) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        found = [int(path.name) for path in run_dir.fence.iterdir() if _NAME.fullmatch(path.name)]
    return found


def _path(run_dir: RunDir, token: int) -> Path:
    return run_dir.fence / f"{token:07d}"
