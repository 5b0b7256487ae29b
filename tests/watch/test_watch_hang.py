"""When a launch hangs, and what the watcher does about it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from stand_in import StandIn, run_dir_in

from harness.run.heartbeats import Activity, Beat, beat_to_json
from harness.run.launch_requests import kill_reason
from harness.run.lock import RunLock
from harness.run.paths import RunDir
from harness.watch import daemon, hang
from harness.watch.daemon import watch
from harness.watch.hang import HangWatch, beats_of, hang_of, newest_launch, progress_of

LAUNCH = Path("launches/0003")
LIMIT_S = 60.0
NOW = 5000.0


def beat(rank: int, step: int = 7, activity: Activity = Activity.FORWARD_BACKWARD, *, silent_s: float = 1.0) -> Beat:
    return Beat(
        rank=rank,
        host=f"n{rank}",
        pid=100 + rank,
        step=step,
        activity=activity,
        since=NOW - 500,
        time=NOW - silent_s,
        spent_s={},
    )


def hung_after(idle_s: float, *beats: Beat) -> str | None:
    progress = progress_of(LAUNCH, beats, None, 0.0)
    found = hang_of(progress, beats, LIMIT_S, clock_s=idle_s, now=NOW)
    return None if found is None else found.text


def test_a_launch_in_which_nobody_moves_hangs() -> None:
    assert hung_after(59, beat(0), beat(1)) is None
    assert hung_after(61, beat(0), beat(1, 7, Activity.DATA), beat(2)) == (
        "no rank has made progress for 61 s; least far at step 7, data: rank 1 on n1 (process 101)"
    )


def test_silent_ranks_are_named_before_those_that_are_behind() -> None:
    text = hung_after(61, beat(0, 7, Activity.DATA), beat(1, silent_s=90))
    assert text is not None
    assert text.endswith("; silent at step 7, forward-backward: rank 1 on n1 (process 101)")


def test_many_ranks_are_not_all_named() -> None:
    text = hung_after(61, *(beat(rank) for rank in range(20)))
    assert text is not None
    assert "rank 7 on n7 (process 107) and 12 more" in text


@pytest.mark.parametrize("activity", [Activity.START, Activity.LOAD, Activity.EVALUATE, Activity.SAVE])
def test_phases_that_take_long_have_more_time(activity: Activity) -> None:
    assert hung_after(4 * LIMIT_S - 1, beat(0), beat(1, activity=activity)) is None
    assert hung_after(4 * LIMIT_S, beat(0), beat(1, activity=activity)) is not None


def test_what_a_silent_rank_said_last_gives_no_more_time() -> None:
    stopped_at_once = beat(1, 0, Activity.START, silent_s=90)
    assert hung_after(LIMIT_S, beat(0), stopped_at_once) is not None
    assert hung_after(LIMIT_S, stopped_at_once) is None  # there is nobody else to go by


def test_who_has_left_does_not_hang() -> None:
    assert hung_after(1e6, beat(0, activity=Activity.LEFT)) is None
    assert hung_after(1e6) is None


def test_any_step_or_phase_of_any_rank_starts_the_time_anew() -> None:
    first = progress_of(LAUNCH, [beat(0), beat(1)], None, 10.0)
    assert (
        progress_of(LAUNCH, [beat(0), replace(beat(1), time=NOW + 5)], first, 20.0) is first
    )  # a sign of life is none
    for moved in (
        beat(1, 8),
        beat(1, activity=Activity.OPTIMIZER),
        replace(beat(1), since=NOW),
        replace(beat(1), pid=7),
    ):
        assert progress_of(LAUNCH, [beat(0), moved], first, 20.0).seen_at == 20.0
    assert progress_of(Path("launches/0004"), [beat(0), beat(1)], first, 20.0).seen_at == 20.0


def launch_in(run_dir: RunDir, number: int, *beats: Beat) -> Path:
    folder = run_dir.launch(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "launch.json").write_text(json.dumps({"world_size": 2}))
    os.utime(folder / "launch.json", (NOW - 600, NOW - 600))
    for one in beats:
        run_dir.heartbeat(one.rank).write_text(json.dumps(beat_to_json(one)))
    return folder


def test_only_beats_of_the_newest_launch_count(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.make_folders()
    assert newest_launch(run_dir) is None
    launch_in(run_dir, 9999)
    folder = launch_in(run_dir, 10000, beat(0), beat(1, silent_s=700), beat(2))
    run_dir.launch(10001).mkdir()  # waits in the queue
    assert newest_launch(run_dir) == folder
    assert [one.rank for one in beats_of(run_dir, folder)] == [0]


def test_a_launch_that_has_ended_or_whose_processes_are_gone_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang.time, "time", lambda: NOW)
    clock = iter(range(0, 1000, 100))
    run_dir = RunDir(tmp_path)
    run_dir.make_folders()
    folder = launch_in(run_dir, 1, beat(0, silent_s=90))
    watching = HangWatch(run_dir, LIMIT_S, lambda: float(next(clock)))
    assert watching.look() is None
    assert watching.look() is None  # nobody is alive
    with RunLock(run_dir):
        assert watching.look() is not None
        (folder / "ended.json").touch()
        assert watching.look() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")
def test_files_of_another_user_neither_hide_a_hang_nor_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang.time, "time", lambda: NOW)
    clock = iter(range(0, 1000, 100))
    run_dir = RunDir(tmp_path)
    run_dir.make_folders()
    folder = launch_in(run_dir, 1, beat(0))
    later = launch_in(run_dir, 2, beat(1))
    (folder / "ended.json").touch()
    for path in (later / "launch.json", folder / "ended.json", run_dir.heartbeat(1)):
        os.chown(path, 65534, -1)
    watching = HangWatch(run_dir, LIMIT_S, lambda: float(next(clock)))
    assert watching.look() is None
    found = watching.look()
    assert found is not None
    assert found.launch == folder
    assert "rank 1" not in found.text
    os.chown(run_dir.heartbeat(0), 65534, -1)
    assert [watching.look() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("may_command", [True, False])
def test_the_watcher_orders_the_kill_once_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_command: bool
) -> None:
    run = StandIn(run_dir_in(tmp_path), changes={"poll_s": 0.01, "kill_hung_after_s": 0.05, "least_free_gib": 0})
    run.train(5)
    folder = launch_in(run.run_dir, 1, beat(0), beat(1, silent_s=90))
    monkeypatch.setattr(daemon, "_RANKS_EVERY_S", 0.0)
    monkeypatch.setattr(hang.time, "time", lambda: NOW)
    told: list[str] = []
    rounds = iter(range(60))

    def show(text: str) -> None:
        told.append(text)

    monkeypatch.setattr(
        daemon._WatchLoop,
        "_has_ended",
        lambda _self: (kill_reason(folder) is not None and len(told) > 3) or next(rounds) > 50,
    )
    watch(run.run_dir, once=False, may_command=may_command, alert_urls=(), show=show)
    reason = kill_reason(folder)
    assert (reason is not None) == may_command
    events = [json.loads(line) for line in run.run_dir.events.read_text().splitlines()]
    (event,) = [event for event in events if event["kind"] == "hung"]
    assert event["outcome"] == ("it is killed" if may_command else "only looking: it is left alone")
    assert "silent at step 7, forward-backward: rank 1 on n1" in event["reason"]
    alerts = [json.loads(line) for line in (run.run_dir.watch / "alerts.jsonl").read_text().splitlines()]
    assert [alert["kind"] for alert in alerts] == ["killed" if may_command else "hung"]
    assert [alert["severity"] for alert in alerts] == ["warning" if may_command else "page"]
    assert alerts[0]["text"].startswith("launch 0001 hangs: no rank has made progress for ")
