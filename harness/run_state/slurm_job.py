"""Slurm's word about a job: where it is in its life, and why it waits.

`scontrol` knows a job until some minutes after its end (`MinJobAge`), `sacct` for longer where there are accounts.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

_PATIENCE_S = 10.0
_FIELD = re.compile(r"(\S+?)=(\S*)")
_NUMBER = re.compile(r"[0-9]{1,18}")
_UNKNOWN = "Invalid job id"
_HELD = {
    "JobHeldUser": "a person holds it; `scontrol release {job}` lets it go on",
    "JobHeldAdmin": "an administrator of the cluster holds it",
    "JobHoldMaxRequeue": "Slurm holds it: it was requeued too often; look at it, then `scontrol release {job}`",
    "DependencyNeverSatisfied": "the job that it waits for did not end as it should: it never starts; `scancel {job}`",
}
"""Reasons of Slurm for a job that does not start by itself, in words."""
_HELD_BY_PERSON = ("JobHeldUser",)
_HOLDING_STATES = ("REQUEUE_HOLD", "SPECIAL_EXIT")


class Life(StrEnum):
    """The places in the life of a job."""

    WAITS = "waits"
    HELD = "held"
    """It waits, and does not start by itself."""
    RUNS = "runs"
    SUSPENDED = "suspended"
    LEAVES = "leaves"
    """It is over, and Slurm clears up after it."""
    CANCELLED = "cancelled"
    OVER = "over"
    FORGOTTEN = "forgotten"
    """Slurm does not know it."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """A job, as Slurm knows it."""

    job_id: str
    life: Life
    word: str
    """Slurm's own word for its state, such as `PENDING`; empty for a job that is forgotten."""
    reason: str | None = None
    """Slurm's own word for the reason; None without one."""
    restarts: int = 0
    """Number of times that it was requeued."""
    starts_at: str | None = None
    """Time at which Slurm expects it to start; None where Slurm expects nothing."""

    @property
    def is_held_by_person(self) -> bool:
        """Return whether a person holds the job, who may let it go."""
        return self.life is Life.HELD and self.reason in _HELD_BY_PERSON

    @property
    def in_words(self) -> str:
        """Return what it waits for, or how it ended."""
        if self.life is Life.HELD:
            known = _HELD.get(self.reason or "", "Slurm holds it ({reason}); `scontrol release {job}` lets it go on")
            return known.format(job=self.job_id, reason=self.reason or self.word)
        if self.life is Life.WAITS:
            expected = f", expected to start at {self.starts_at}" if self.starts_at else ""
            return f"job {self.job_id} waits in the queue ({self.reason or 'no reason given'}{expected})"
        if self.life is Life.FORGOTTEN:
            return f"Slurm does not know job {self.job_id} any more"
        return f"Slurm says of job {self.job_id}: {self.word}" + (f" ({self.reason})" if self.reason else "")


Ask = Callable[[str], SlurmJob | None]
"""Returns what Slurm knows of a job, or None if it does not answer here."""


def ask_slurm(job_id: str) -> SlurmJob | None:
    """Return what Slurm knows of a job; None if Slurm is not here, or does not answer."""
    answer = _run(("scontrol", "--oneliner", "show", "job", job_id))
    if answer is None:
        return None
    code, said = answer
    if code == 0:
        return parse_scontrol(job_id, said)
    if _UNKNOWN not in said:
        return None
    accounts = _run(("sacct", "--jobs", job_id, "--allocations", "--noheader", "--parsable2", "--format", "State"))
    word = accounts[1].strip().splitlines()[-1:] if accounts is not None and accounts[0] == 0 else []
    if word and (state := word[0].partition(" ")[0]):
        return SlurmJob(job_id=job_id, life=life_of(state, None), word=word[0])
    return SlurmJob(job_id=job_id, life=Life.FORGOTTEN, word="")


def parse_scontrol(job_id: str, said: str) -> SlurmJob:
    """Return the job in a line of `scontrol --oneliner show job` (pure)."""
    fields = dict(_FIELD.findall(said))
    word = fields.get("JobState", "UNKNOWN")
    reason = fields.get("Reason")
    reason = None if reason in (None, "", "None") else reason
    restarts, start = fields.get("Restarts", "0"), fields.get("StartTime", "Unknown")
    life = life_of(word, reason)
    return SlurmJob(
        job_id=job_id,
        life=life,
        word=word,
        reason=reason,
        restarts=int(restarts) if _NUMBER.fullmatch(restarts) else 0,
        starts_at=start if life is Life.WAITS and start not in ("Unknown", "N/A") else None,
    )


def life_of(word: str, reason: str | None) -> Life:
    """Return where a job is in its life, from Slurm's words for its state and the reason (pure)."""
    if word in ("PENDING", *_HOLDING_STATES, "REQUEUED", "REQUEUE_FED", "RESV_DEL_HOLD"):
        is_held = word in (*_HOLDING_STATES, "RESV_DEL_HOLD") or reason in _HELD or "held" in (reason or "")
        return Life.HELD if is_held else Life.WAITS
    if word in ("RUNNING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT"):
        return Life.RUNS
    if word in ("SUSPENDED", "STOPPED"):
        return Life.SUSPENDED
    if word == "COMPLETING":
        return Life.LEAVES
    return Life.CANCELLED if word in ("CANCELLED", "REVOKED") else Life.OVER


def _run(command: Sequence[str]) -> tuple[int, str] | None:
    """Return exit code and output of a command; None if it is not here or does not answer in time."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode, done.stdout + done.stderr
