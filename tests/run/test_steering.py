"""What steers a run counts only as a file of the user whose process reads it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli
from harness.run.commands.mailbox import Mailbox
from harness.run.heartbeats import Activity, Beat, beat_to_json
from harness.run.launch_requests import kill_reason, request_kill, request_stacks, stacks_requested
from harness.run.launches import NodeEnd, bad_nodes_in, history, node_ends, write_node_end
from harness.run.own_file import STEERING
from harness.run.paths import RunDir
from harness.run.watcher_presence import is_watched, write_watcher_beat
from harness.watch.hang import beats_of, newest_launch

OTHER = 65534
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.make_folders()
    run_dir.watch.mkdir()
    run_dir.launch(1).mkdir()
    return run_dir


def kill(run_dir: RunDir) -> Path:
    request_kill(run_dir.launch(1), "because")
    return run_dir.launch(1) / "kill.json"


def stacks(run_dir: RunDir) -> Path:
    request_stacks(run_dir.launch(1))
    return run_dir.launch(1) / "stacks.request"


def beat(run_dir: RunDir) -> Path:
    write_watcher_beat(run_dir, step=1, may_command=True)
    return run_dir.watch_heartbeat


def command(run_dir: RunDir) -> Path:
    (run_dir.signals / "stop").touch()
    return run_dir.signals / "stop"


def bad_node(run_dir: RunDir) -> Path:
    path = run_dir.launch(1) / "bad_node_00000.json"
    path.write_text(json.dumps({"node07": ["too few GPUs"]}))
    return path


def start(run_dir: RunDir) -> Path:
    path = run_dir.launch(1) / "launch.json"
    path.write_text(json.dumps({"job_id": "42", "world_size": 1, "workers_per_node": 1}))
    return path


def node_end(run_dir: RunDir) -> Path:
    write_node_end(run_dir.launch(1), 0, NodeEnd(host="node07", exit_code=77))
    return run_dir.launch(1) / "node_00000.json"


def ending(run_dir: RunDir) -> Path:
    start(run_dir)
    path = run_dir.launch(1) / "ended.json"
    path.write_text(json.dumps({"exit_code": 77, "action": "stop", "reason": "stopped by a person"}))
    return path


def rank_beat(run_dir: RunDir) -> Path:
    start(run_dir)
    now = time.time() + 1
    beat = Beat(
        rank=0, host="node07", pid=7, step=3, activity=Activity.DATA, since=now, time=now, spent_s={"data": 1.0}
    )
    run_dir.heartbeat(0).parent.mkdir(exist_ok=True)
    run_dir.heartbeat(0).write_text(json.dumps(beat_to_json(beat)))
    return run_dir.heartbeat(0)


WAYS: list[tuple[Callable[[RunDir], Path], Callable[[RunDir], object]]] = [
    (kill, lambda run_dir: kill_reason(run_dir.launch(1))),
    (stacks, lambda run_dir: stacks_requested(run_dir.launch(1))),
    (beat, is_watched),
    (command, lambda run_dir: Mailbox(run_dir).poll()),
    (bad_node, lambda run_dir: bad_nodes_in(run_dir.launch(1))),
    (start, newest_launch),
    (start, lambda run_dir: history(run_dir, "42")),
    (node_end, lambda run_dir: node_ends(run_dir.launch(1))),
    (ending, lambda run_dir: [end for end in history(run_dir, "42") if end.exit_code is not None]),
    (rank_beat, lambda run_dir: beats_of(run_dir, run_dir.launch(1))),
]


@pytest.mark.parametrize(("make", "effect"), WAYS, ids=[make.__name__ for make, _ in WAYS])
def test_a_file_of_ones_own_steers(
    run_dir: RunDir, make: Callable[[RunDir], Path], effect: Callable[[RunDir], object]
) -> None:
    assert not effect(run_dir)
    make(run_dir)
    assert effect(run_dir)


@only_root
@pytest.mark.parametrize(("make", "effect"), WAYS, ids=[make.__name__ for make, _ in WAYS])
def test_a_file_of_another_user_does_not(
    run_dir: RunDir, make: Callable[[RunDir], Path], effect: Callable[[RunDir], object]
) -> None:
    os.chown(make(run_dir), OTHER, -1)
    assert not effect(run_dir)


@pytest.mark.parametrize(("make", "effect"), WAYS, ids=[make.__name__ for make, _ in WAYS])
@pytest.mark.parametrize("way", ["link", "hard link", "pipe", "folder"])
@pytest.mark.timeout(20)
def test_what_is_no_file_of_its_own_does_not(
    run_dir: RunDir, make: Callable[[RunDir], Path], effect: Callable[[RunDir], object], way: str
) -> None:
    path = make(run_dir)
    elsewhere = path.rename(run_dir.root / "elsewhere")
    if way == "link":
        path.symlink_to(elsewhere)
    elif way == "hard link":
        path.hardlink_to(elsewhere)
    elif way == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert not effect(run_dir)


@only_root
def test_another_users_request_does_not_stand_in_the_way_of_ones_own(run_dir: RunDir) -> None:
    launch = run_dir.launch(1)
    for name in ("kill.json", "stacks.request"):
        (launch / name).touch()
        os.chown(launch / name, OTHER, -1)
    assert request_kill(launch, "it hangs")
    assert kill_reason(launch) == "it hangs"
    assert request_stacks(launch) == stacks_requested(launch)


def test_a_request_for_stacks_follows_no_link(run_dir: RunDir) -> None:
    precious = run_dir.root / "precious"
    precious.write_text("kept")
    os.utime(precious, (1, 1))
    (run_dir.launch(1) / "stacks.request").symlink_to(precious)
    assert request_stacks(run_dir.launch(1)) > time.time() - 60
    assert (precious.read_text(), precious.stat().st_mtime) == ("kept", 1)


@only_root
def test_what_does_not_steer_is_shown_all_the_same(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    for make in (start, rank_beat):
        os.chown(make(run_dir), OTHER, -1)
    assert cli.run(["status", str(run_dir.root)]) == 0
    assert "state      training\n" in capsys.readouterr().out
    os.chown(ending(run_dir), OTHER, -1)
    assert cli.run(["status", str(run_dir.root)]) == 0
    assert "stopped by a person" in capsys.readouterr().out


def test_the_guide_lists_every_file_that_steers() -> None:
    rows = [line for line in OPERATIONS.read_text().splitlines() if line.startswith("| `")]
    for each in STEERING:
        assert f"| `{each.path}` | {each.effect} | {each.reader} | {each.otherwise} |" in rows
