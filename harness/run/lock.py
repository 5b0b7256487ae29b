"""One trainer per run directory: a lock that the kernel releases when its holders are dead, however they died.

The lock is a `flock` on `<run>/lock`. It belongs to the open file, so that a launcher can pass it on to its workers: it
is held until the last of them is gone, even if the launcher is killed. The file's text says who holds it, for people.
With the lock comes a fence, which holds back a writer that has lost the lock without noticing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated

from pydantic import Field, TypeAdapter

from harness.errors import RunEndingError, RunInUseError, RunTakenOverError, UsageError
from harness.json_text import parse_json
from harness.run.fence import MOST_TOKEN, Fence, claim
from harness.run.files import open_own, open_regular, read_regular
from harness.run.paths import RunDir

PATIENCE_S = 0.5
"""Time for which a held lock is tried again. A process that only checks the lock holds it for a moment."""
_RETRY_S = 0.05
_DEAD = "ZX"
"""States of a process that has ended, and whose parent has not noticed yet."""
_MOST_BYTES = 4096
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that took a run's lock."""

    host: str
    pid: int
    process: str | None
    """Boot and start time of the process: a later one with the same pid differs in them. None where unknown."""
    job_id: str | None
    started: str
    token: Annotated[int, Field(ge=0, le=MOST_TOKEN)] = 0
    """Token of its fence."""

    def __str__(self) -> str:
        """Return the owner in words: `process 123 on node07 (job 4711) since 2025-01-31 12:00:00`."""
        job = f" (job {self.job_id})" if self.job_id else ""
        return f"process {self.pid} on {self.host}{job} since {self.started}"


_OWNER = TypeAdapter(Owner)


class RunLock:
    """The lock of a run directory. Use it as a context manager, or call `acquire` and `release`."""

    def __init__(self, run_dir: RunDir, job_id: str | None = None) -> None:
        self._run_dir = run_dir
        self._job_id = job_id
        self._fence: Fence | None = None
        self.descriptor: int | None = None
        """The open file for workers to inherit (`pass_fds`); None where this object does not hold the lock."""
        self.unprotected_reason: str | None = None
        """Set by `acquire` where the file system has no locks: training goes on, but nothing keeps a second trainer
        out."""

    def acquire(self) -> None:
        """Take the lock. Does nothing if this process, or the launcher that started it, holds it already.

        Raises:
            RunEndingError: What is left of an earlier launch on this machine, whose launcher is dead, still holds it.
            RunInUseError: Another process trains in this run directory.
            UsageError: The run directory does not exist or cannot be written.
        """
        descriptor = _open(self._run_dir.lock)
        try:
            if (ours := self._lock(descriptor)) is not None:
                os.close(descriptor)
                self._fence = Fence(run_dir=self._run_dir, token=ours.token)
                return
            self._fence = claim(self._run_dir)
            _write_owner(descriptor, self._job_id, self._fence.token)
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor

    def release(self) -> None:
        """Give the lock up, unless a process that inherited it still lives."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            with suppress(OSError, RunTakenOverError):  # without locks the text may be that of the next owner
                self.fence.require_held()
                os.ftruncate(descriptor, 0)
            with suppress(OSError):  # it is closed all the same
                os.close(descriptor)  # closed, not unlocked: unlocking would release it for the workers too

    @property
    def fence(self) -> Fence:
        """Fence to check right before publishing anything in the run's directory. The lock must have been acquired."""
        assert self._fence is not None, "the lock was not acquired"
        return self._fence

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _lock(self, descriptor: int) -> Owner | None:
        """Take the lock, or return its owner if that is this process or its parent."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                owner = _read_owner(descriptor)
            except OSError as error:
                if error.errno not in _NO_LOCKS_HERE:
                    raise
                self.unprotected_reason = f"the file system of {self._run_dir.root} has no locks ({error.strerror})"
                owner = _read_owner(descriptor)
                return owner if owner is not None and _is_ours(owner) else None
            if owner is not None and _is_ours(owner) and os.fstat(descriptor).st_uid == os.geteuid():
                return owner
            if time.monotonic() >= deadline:
                raise _refusal(self._run_dir, owner)
            time.sleep(_RETRY_S)


def owner_of(run_dir: RunDir) -> Owner | None:
    """Return the owner of the run's lock, or None if nobody holds it or its file does not exist.

    Raises:
        OSError: The file cannot be read, or is a link or no file.
    """
    try:
        descriptor = open_regular(run_dir.lock)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read_owner(descriptor) or Owner(host="?", pid=0, process=None, job_id=None, started="?")
    else:
        return None
    finally:
        os.close(descriptor)


def last_owner_of(run_dir: RunDir) -> Owner | None:
    """Return who took the lock last and did not release it. It may train still, be dead, or hold it on another host."""
    try:
        return _parse_owner(read_regular(run_dir.lock, _MOST_BYTES))
    except OSError:
        return None


def _open(path: Path) -> int:
    """Open the lock's file. What it holds is replaced later, so it must be the only name of its content."""
    try:
        descriptor = open_own(path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.ENXIO):
            raise UsageError(
                f"cannot lock the run directory {path.parent}: {path} is a link, or no regular file, and the lock "
                "must be a file of its own. If nobody trains there, remove it"
            ) from None
        raise UsageError(
            f"cannot lock the run directory {path.parent}: {error.strerror}; it must exist and be writable, "
            "choose another one with --run-dir"
        ) from None
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise UsageError(
            f"cannot lock the run directory {path.parent}: {path} is a second name of another file (a hard link), "
            "whose content the lock would replace. If nobody trains there, remove that name"
        )
    return descriptor


def ending_error(run_dir: RunDir, owner: Owner) -> RunEndingError:
    """Return the error for a run that is held by what is left of an earlier launch."""
    return RunEndingError(
        f"{run_dir.root} is still held by processes of an earlier launch ({owner}), which is over. They save, and "
        f"leave by themselves: start again in a minute, or look who they are (`fuser -v {run_dir.lock}`)"
    )


def _refusal(run_dir: RunDir, owner: Owner | None) -> RunInUseError:
    if owner is not None and _has_died(owner):
        return ending_error(run_dir, owner)
    return RunInUseError(_in_use_text(run_dir, owner))


def _has_died(owner: Owner) -> bool:
    """Return whether the owner was a process of this machine and is none any more; False where that is not known."""
    if owner.host != socket.gethostname() or owner.process is None:
        return False
    return _process_of(owner.pid) != owner.process


def _in_use_text(run_dir: RunDir, owner: Owner | None) -> str:
    who = str(owner) if owner else "another process"
    return (
        f"{run_dir.root} is in use: {who} trains there, and a run has one trainer at a time; "
        f"stop it with `harness signal {run_dir.root} save-and-stop`, or choose another directory with --run-dir"
    )


def _is_ours(owner: Owner) -> bool:
    """Return whether the owner is this process or its parent."""
    if owner.host != socket.gethostname() or owner.pid not in (os.getpid(), os.getppid()):
        return False
    return owner.process == _process_of(owner.pid)


def _process_of(pid: int) -> str | None:
    """Return boot and start time of a living process.

    The start is field 22 of `/proc/<pid>/stat`; field 2 may hold `) `.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in _DEAD else f"{boot}:{after_name[19]}"


def _write_owner(descriptor: int, job_id: str | None, token: int) -> None:
    """Write down that this process holds the lock."""
    pid, started = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")
    process = _process_of(pid)
    owner = Owner(host=socket.gethostname(), pid=pid, process=process, job_id=job_id, started=started, token=token)
    with suppress(OSError):  # a full disk: the lock holds without its text
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(asdict(owner)) + "\n").encode(), 0)


def _read_owner(descriptor: int) -> Owner | None:
    return _parse_owner(os.pread(descriptor, _MOST_BYTES, 0))


def _parse_owner(text: bytes) -> Owner | None:
    try:
        return _OWNER.validate_json(json.dumps(parse_json(text)), strict=True)
    except ValueError:
        return None
