"""A run that cannot be read, or in which something else lies in a file's place, is one line and the right exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from run_samples import untrained_run

from harness import cli
from harness.disk_errors import disk_problem
from harness.run.event_types import Started
from harness.run.events import append_event
from harness.run.launches import LAUNCH, LaunchStart, write_launch_file
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line

OTHER = 65534
VERBS = [
    ["status", "RUN"],
    ["status", "RUN", "--json"],
    ["diagnose", "RUN"],
    ["diagnose", "RUN", "--stacks"],
    ["signal", "RUN", "save"],
    ["signal", "RUN", "save", "--wait", "--timeout", "0"],
    ["watch", "RUN", "--once"],
    ["replay", "RUN"],
    ["checkpoint", "list", "RUN"],
    ["checkpoint", "verify", "RUN"],
    ["data", "ledger", "RUN"],
    ["data", "where", "RUN", "--step", "1"],
    ["data", "quarantine", "RUN"],
]
verbs = pytest.mark.parametrize("verb", VERBS, ids=" ".join)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = untrained_run(tmp_path / "run")
    values = {"train/lm_loss": 2.0}
    record = StepRecord(
        attempt=0, step=1, time=1.0, phase="main", consumed_samples=4, consumed_tokens=32, batch_hash=1, values=values
    )
    run_dir.metrics.write_text(to_json_line(record))
    append_event(run_dir.events, Started(attempt=0, step=0))
    run_dir.launch(1).mkdir()
    write_launch_file(run_dir.launch(1) / LAUNCH, LaunchStart(world_size=1))
    run_dir.order.touch()
    run_dir.lock.touch()
    return run_dir


def arguments(verb: Sequence[str], run_dir: RunDir) -> list[str]:
    return [str(run_dir.root) if word == "RUN" else word for word in verb]


def require_one_line(code: int, error: str) -> None:
    assert code in (64, 65), error
    assert error.startswith("harness: error: ")
    assert error.count("\n") == 1


def as_another(verb: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and errors of a command, called by another user in a fork of this process."""
    cli.run(verb)  # what it imports need not be readable for others
    path = folder / "errors"
    path.touch()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            for number in (1, 2):
                os.dup2(os.open(path, os.O_WRONLY), number)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: PTH123, SIM115
            os.setgid(OTHER)
            os.setuid(OTHER)
            code = cli.run(verb)
            sys.stderr.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), path.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@verbs
def test_a_run_of_another_user_that_cannot_be_read(run_dir: RunDir, verb: list[str], tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    run_dir.root.chmod(0o700)
    code, error = as_another(arguments(verb, run_dir), tmp_path)
    require_one_line(code, error)
    assert "is not readable" in error or "Permission denied" in error


@verbs
@pytest.mark.parametrize("length", [256, 5000])
def test_a_name_that_no_file_has(verb: list[str], length: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["x" * length if word == "RUN" else word for word in verb])
    require_one_line(code, capsys.readouterr().err)
    assert code == 64


@verbs
def test_a_file_in_place_of_a_run(verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("text")
    code = cli.run(arguments(verb, RunDir(tmp_path / "run")))
    require_one_line(code, capsys.readouterr().err)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@verbs
@pytest.mark.parametrize("change", [to_folder, to_loop])
@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "events.jsonl", "order.jsonl", "lock", "launches/0001/launch.json"]
)
def test_something_else_in_place_of_a_file(
    run_dir: RunDir, verb: list[str], name: str, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    change(run_dir.root / name)
    code = cli.run(arguments(verb, run_dir))
    error = capsys.readouterr().err
    assert code in (0, 64, 65), error
    assert "Traceback" not in error


@verbs
@pytest.mark.parametrize("name", ["signals", "checkpoints", "launches", "launches/0001", "heartbeats", "watch"])
def test_a_file_in_place_of_a_folder(
    run_dir: RunDir, verb: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_dir.root / name
    if folder.exists():
        folder.rename(run_dir.root.parent / "away")
    folder.write_text("text")
    code = cli.run(arguments(verb, run_dir))
    error = capsys.readouterr().err
    assert code in (0, 64, 65), error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_status_does_not_pass_over_what_it_cannot_read(
    run_dir: RunDir, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to_folder(run_dir.root / name)
    assert cli.run(["status", str(run_dir.root)]) == 65
    assert f"{run_dir.root / name}: not a regular file" in capsys.readouterr().err


def test_who_waits_where_nobody_trains_learns_it(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["signal", str(run_dir.root), "save", "--wait"]) == 64
    assert f"nobody seems to train in {run_dir.root}: the command waits in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), ("/a/b: Permission denied. Ask its owner", 65)),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), ("/a: Permission denied. Ask its owner", 64)),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"/o"), ("/o: Is a directory. A file belongs there", 64)),
        (OSError(errno.ENOSPC, "No space left on device"), ("the disk refused: No space left on device", 65)),
        (OSError(errno.EBADF, "Bad file descriptor"), None),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), None),
    ],
)
def test_an_error_of_the_disk_in_words(error: OSError, expected: tuple[str, int] | None) -> None:
    found = disk_problem(error, ["verb", "/a", "--output=/o"])
    if expected is None or found is None:
        assert found is expected
    else:
        assert found[0].startswith(expected[0])
        assert found[1] == expected[1]
