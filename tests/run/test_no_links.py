"""Locks and files to which a run appends are files of its own: what a link leads to is neither emptied nor written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from run_samples import untrained_run

from harness import cli
from harness.errors import UsageError
from harness.run.append import JsonLines
from harness.run.files import append_durably, append_lines
from harness.run.launch_folder import make_run
from harness.run.lock import RunLock, last_owner_of, owner_of
from harness.run.paths import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = untrained_run(tmp_path / "run")
    run_dir.watch.mkdir()
    return run_dir


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_bytes(b"kept\nhalf a line")
    return path


def symbolic(path: Path, target: Path) -> None:
    path.symlink_to(target)


def hard(path: Path, target: Path) -> None:
    path.hardlink_to(target)


@pytest.mark.parametrize("link", [symbolic, hard])
def test_a_lock_is_never_a_link(run_dir: RunDir, precious: Path, link: Callable[[Path, Path], None]) -> None:
    link(run_dir.lock, precious)
    with pytest.raises(UsageError, match="cannot lock the run directory"):
        RunLock(run_dir).acquire()
    assert precious.read_bytes() == b"kept\nhalf a line"


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_the_lock_holds_nobody_up(run_dir: RunDir) -> None:
    os.mkfifo(run_dir.lock)
    with pytest.raises(UsageError, match="no regular file"):
        RunLock(run_dir).acquire()
    with pytest.raises(OSError, match="not a regular file"):
        owner_of(run_dir)
    assert last_owner_of(run_dir) is None


@pytest.mark.parametrize("link", [symbolic, hard])
def test_the_lock_of_the_watcher_empties_nothing(
    run_dir: RunDir, precious: Path, link: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    link(run_dir.watch_lock, precious)
    code = cli.run(["watch", str(run_dir.root), "--once"])
    assert code == (64 if link is symbolic else 0)
    if code:
        assert f"cannot open {run_dir.watch_lock}: it is a link" in capsys.readouterr().err
    assert precious.read_bytes() == b"kept\nhalf a line"


@pytest.mark.parametrize("append", [append_lines, append_durably, lambda path, lines: JsonLines(path).append(*lines)])
def test_nothing_is_appended_through_a_link(
    run_dir: RunDir, precious: Path, append: Callable[[Path, list[str]], None]
) -> None:
    run_dir.events.symlink_to(precious)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        append(run_dir.events, ["{}"])
    assert precious.read_bytes() == b"kept\nhalf a line"
    run_dir.metrics.symlink_to(run_dir.root / "nowhere")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        append(run_dir.metrics, ["{}"])
    assert not (run_dir.root / "nowhere").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "order.jsonl", "resume_failures.jsonl"])
def test_a_start_says_which_file_is_a_link(run_dir: RunDir, precious: Path, name: str) -> None:
    (run_dir.root / name).symlink_to(precious)
    with pytest.raises(UsageError, match=f"{name} is a link to .*, and a run writes only to files of its own"):
        make_run(run_dir)


def test_a_run_may_be_behind_a_link(run_dir: RunDir, tmp_path: Path) -> None:
    linked = RunDir(tmp_path / "linked")
    linked.root.symlink_to(run_dir.root)
    make_run(linked)
    with RunLock(linked):
        assert owner_of(run_dir) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes another user's place")
def test_a_forged_owner_of_a_lock_is_not_oneself(run_dir: RunDir) -> None:
    with RunLock(run_dir):
        text = run_dir.lock.read_bytes()
    run_dir.lock.write_bytes(text)
    os.chown(run_dir.lock, 65534, -1)
    run_dir.lock.chmod(0o666)
    holding = (
        "import fcntl, sys, time; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True)"
        "; time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holding, str(run_dir.lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        own = RunLock(run_dir)
        with pytest.raises(UsageError, match="is in use"):
            own.acquire()
        holder.kill()
