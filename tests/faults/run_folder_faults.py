"""Faults of the folder that a run lives in: full, read-only, taken by somebody else, its files damaged."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.run.lock import RunLock
from harness.run.paths import RunDir

RUN_FILES = (
    "metrics.jsonl",
    "events.jsonl",
    "plan.txt",
    "config.yaml",
    "lock",
    "resume_failures.jsonl",
    "heartbeats/rank_00000.json",
    "signals/damaged.json",
    "signals/save",
    "signals/done/rollback-0000002.json.partial",
    "checkpoints/step_0000006.partial",
    "checkpoints/step_0000002.removed",
    "checkpoints/step_0000099",
    "checkpoints/notes.txt",
)
"""Files that are damaged, or made of garbage where they do not exist."""


def harm_run_file(draw: random.Random, file: Path) -> str:
    """Damages a file, or leaves garbage in its place; says what it did."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        if not file.exists():
            file.write_bytes(draw.randbytes(draw.randrange(200)))
        return f"garbage as {file.name}"
    content = bytearray(file.read_bytes())
    if not content or draw.random() < 0.3:
        file.write_bytes(bytes(content) + draw.randbytes(draw.randrange(1, 100)))
        return f"garbage at the end of {file.name}"
    if draw.random() < 0.5:
        keep = draw.randrange(len(content))
        file.write_bytes(bytes(content[:keep]))
        return f"{file.name} cut off at {keep}"
    start = draw.randrange(len(content))
    content[start : start + 64] = bytes(len(content[start : start + 64]))
    file.write_bytes(bytes(content))
    return f"{file.name} with zeros at {start}"


@contextmanager
def fill_up(run_dir: Path, draw: random.Random) -> Iterator[int | None]:
    """Puts the run on a disk with little room left for the time of the block; None where that is not allowed.

    Yields how many KiB are left.
    """
    used = sum(path.stat().st_blocks // 2 for path in run_dir.rglob("*") if path.is_file())
    left = draw.choice((draw.randrange(0, 40), draw.randrange(0, 700)))
    with _mounted(run_dir, f"size={used + left + 8}k") as is_done:
        yield left if is_done else None


@contextmanager
def write_protected(run_dir: Path) -> Iterator[bool]:
    """Puts the run on a read-only file system for the time of the block; False where that is not allowed."""
    with _mounted(run_dir, "size=64m") as is_done:
        if is_done:
            subprocess.run(["mount", "-o", "remount,ro", str(run_dir)], check=True)
        try:
            yield is_done
        finally:
            if is_done:
                subprocess.run(["mount", "-o", "remount,rw", str(run_dir)], check=True)


@contextmanager
def occupied(run_dir: Path) -> Iterator[None]:
    """Holds the lock of a run, as a launcher in another session would."""
    holder = subprocess.Popen(["flock", "--exclusive", "--no-fork", str(RunDir(run_dir).lock), "sleep", "600"])
    try:
        while _can_lock(run_dir):
            pass
        yield
    finally:
        holder.kill()
        holder.wait()


def _can_lock(run_dir: Path) -> bool:
    lock = RunLock(RunDir(run_dir))
    try:
        lock.acquire()
    except Exception:  # noqa: BLE001 (it is held)
        return False
    lock.release()
    return True


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[bool]:
    """A file system of its own for a folder, which keeps what is in it before and after the block."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        aside.rename(folder)
        yield False
        return
    shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(aside)
    try:
        yield True
    finally:
        shutil.copytree(folder, aside, symlinks=True)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()
        aside.rename(folder)
