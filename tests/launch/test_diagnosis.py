"""Who holds the others up."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time as clock
from pathlib import Path

import pytest

from harness import cli
from harness.errors import UsageError
from harness.launch.diagnosis import ask_for_stacks, diagnose, diagnosis_text
from harness.launch.last_words import stacks_path, stacks_text
from harness.run.heartbeats import Activity, Beat, beat_to_json
from harness.run.launch_requests import stacks_requested
from harness.run.paths import RunDir

NOW = 5000.0


def beat(
    rank: int,
    step: int = 7,
    activity: Activity = Activity.FORWARD_BACKWARD,
    *,
    since: float = NOW - 100,
    time: float = NOW - 1,
    data_s: float = 1.0,
    compute_ms: float | None = None,
) -> Beat:
    return Beat(
        rank=rank,
        host=f"n{rank}",
        pid=100 + rank,
        step=step,
        activity=activity,
        since=since,
        time=time,
        spent_s={"data": data_s},
        compute_ms=compute_ms,
    )


def ranks(beats: tuple[Beat, ...]) -> list[int]:
    return [one.rank for one in beats]


def test_ranks_that_wait_together_are_well() -> None:
    found = diagnose([beat(0), beat(1)], 2, NOW)
    assert found.is_well


def test_a_stopped_process_is_quiet() -> None:
    found = diagnose([beat(0), beat(1, time=NOW - 60, activity=Activity.DATA)], 2, NOW)
    assert ranks(found.quiet) == [1]
    assert ranks(found.behind) == []


@pytest.mark.parametrize(("step", "phase"), [(7, Activity.DATA), (6, Activity.SAVE), (6, Activity.FORWARD_BACKWARD)])
def test_a_living_rank_that_the_others_wait_for_is_behind(step: int, phase: Activity) -> None:
    found = diagnose([beat(0), beat(1, step, phase), beat(2)], 3, NOW)
    assert ranks(found.behind) == [1]


def test_a_rank_that_has_just_begun_its_phase_is_not_behind() -> None:
    assert diagnose([beat(0), beat(1, 7, Activity.DATA, since=NOW - 5)], 2, NOW).is_well


def test_ranks_never_heard_of_are_missing() -> None:
    assert diagnose([beat(1)], 4, NOW).missing == (0, 2, 3)


def test_ranks_that_left_hold_nobody_up() -> None:
    assert diagnose([beat(0, activity=Activity.LEFT, time=0.0)], 1, NOW).is_well


def test_a_slow_file_system_is_told_by_the_time_spent_on_data() -> None:
    beats = [beat(0, data_s=20), beat(1, data_s=21), beat(2, data_s=60)]
    assert ranks(diagnose(beats, 3, NOW).slow_readers) == [2]
    assert diagnose([beat(0, data_s=0.1), beat(1, data_s=2)], 2, NOW).is_well


def test_a_slow_device_is_told_by_the_time_of_the_same_computation() -> None:
    found = diagnose([beat(0, compute_ms=0.2), beat(1, compute_ms=0.2), beat(2, compute_ms=0.3), beat(3)], 4, NOW)
    assert ranks(found.slow_computers) == [2]
    assert not found.is_well


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.make_folders()
    folder = run.launch(2)
    folder.mkdir()
    (folder / "launch.json").write_text(json.dumps({"world_size": 6}))
    (folder / "flight_recorder").mkdir()
    return run


def write(run: RunDir, *beats: Beat) -> None:
    for one in beats:
        run.heartbeat(one.rank).write_text(json.dumps(beat_to_json(one)))


STACKS = """Process 101: python -m harness.train.worker
Python v3.11.7

Thread 108 (idle): "heartbeat"
    wait (threading.py:331)
Thread 101 (idle): "MainThread"
    recv (torch/distributed.py:2)
    take_step (harness/train/steps/step.py:55)
"""


def dump(sequence: int) -> bytes:
    """What a rank's flight recorder writes, as far as it is read."""
    entry = {"process_group": ("0", "default_pg"), "collective_seq_id": sequence, "profiling_name": "nccl:all_reduce"}
    group = {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}
    return pickle.dumps({"pg_config": {"0": group}, "entries": [entry]})


def test_the_text_names_rank_host_process_step_and_phase(run_dir: RunDir) -> None:
    begun = (run_dir.launch(2) / "launch.json").stat().st_mtime
    now = begun + 1000
    write(
        run_dir,
        beat(0, since=now - 100, time=now - 1, compute_ms=0.25),
        beat(1, since=now - 100, time=now - 90, activity=Activity.DATA),
        beat(2, since=now - 100, time=now - 1, activity=Activity.OPTIMIZER, step=6, data_s=50, compute_ms=0.5),
        beat(9, since=begun - 900, time=begun - 800),
    )
    recorder = run_dir.launch(2) / "flight_recorder"
    for rank, sequence in enumerate((7, 6)):
        (recorder / f"rank_{rank}").write_bytes(dump(sequence))
    stacks_path(run_dir.launch(2), 0).write_text(stacks_text({0: STACKS.replace("recv", "send"), 1: STACKS}))
    assert diagnosis_text(run_dir, now).splitlines() == [
        "launch 2: 3 of 6 ranks have given a sign of life",
        "no heartbeat: rank 3-5; their nodes did not start, see node_*.log",
        "quiet for 90 s: rank 1 on n1 (process 101), step 7, data; the process is stopped or dead, or its node is "
        "cut off",
        "behind: rank 2 on n2 (process 102), step 6, optimizer since 100 s",
        "slow at reading data: rank 2 on n2 (process 102), step 6, optimizer, 50 s in all; look at its file system",
        "slow at computing: rank 2 on n2 (process 102), step 6, optimizer, 0.50 ms where others take 0.25 ms; see "
        "`nvidia-smi -q -d PERFORMANCE,TEMPERATURE` there",
        "the furthest: rank 0 on n0 (process 100), step 7, forward-backward since 100 s",
        "stack of rank 1, innermost first: recv (torch/distributed.py:2) < take_step (harness/train/steps/step.py:55)",
        f"stacks of 2 ranks: {run_dir.launch(2)}/stacks_node_*.txt",
        "collectives: rank 0 waits in nccl:all_reduce number 7 of group 0 (default_pg); rank 1 has not come",
        f"last collectives of 2 ranks, in an empty folder: cat {recorder}/node_*.tar | tar --extract --ignore-zeros; "
        "torchfrtrace --prefix rank_ .",
        f"logs: {run_dir.launch(2)}/node_*.log",
    ]


def test_when_all_have_left_that_is_said(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    begun = (run_dir.launch(2) / "launch.json").stat().st_mtime
    write(run_dir, *(beat(rank, activity=Activity.LEFT, time=begun + 5) for rank in range(6)))
    assert cli.run(["diagnose", str(run_dir.root)]) == 0
    assert "all ranks have left" in capsys.readouterr().out


def test_a_run_that_never_started_cannot_be_diagnosed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no launch of .* has started; give the directory that training printed"):
        diagnosis_text(RunDir(tmp_path))


def test_stacks_are_asked_for_and_waited_for(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    write(run_dir, beat(0, time=clock.time()))
    folder = run_dir.launch(2)
    (folder / "launch.json").write_text(json.dumps({"world_size": 1}))
    stacks_path(folder, 0).write_text(stacks_text({0: "of an earlier request"}))
    os.utime(stacks_path(folder, 0), (0, 0))

    def answer() -> None:
        while stacks_requested(folder) is None:
            clock.sleep(0.01)
        stacks_path(folder, 0).write_text(stacks_text({0: STACKS}))

    launcher = threading.Thread(target=answer)
    launcher.start()
    assert cli.run(["diagnose", str(run_dir.root), "--stacks"]) == 0
    launcher.join()
    told = capsys.readouterr()
    assert told.err == "asking for the stacks of 1 ranks, for at most 30 s\n"
    assert f"stacks of 1 ranks: {folder}/stacks_node_*.txt" in told.out


def test_stacks_that_do_not_come_are_told(run_dir: RunDir) -> None:
    write(run_dir, beat(0, time=clock.time()))
    said: list[str] = []
    ask_for_stacks(run_dir, said.append, patience_s=0.0)
    assert said[-1] == "only 0 of 6 ranks' stacks are here; is py-spy installed on the nodes? See node_*.log"


def test_where_nothing_runs_there_are_no_stacks_to_ask_for(run_dir: RunDir) -> None:
    write(run_dir, beat(0))
    with pytest.raises(UsageError, match="is running, so there are no stacks to ask for; leave --stacks away"):
        ask_for_stacks(run_dir, print)


def test_a_launch_that_has_ended_is_said_to_have_ended_and_why(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.launch(1).mkdir(parents=True)
    (run_dir.launch(1) / "launch.json").write_text('{"world_size": 2}')
    cause = {"rank": 1, "host": "n2", "text": "rank 1 was killed by SIGKILL", "return_code": -9, "log": "/x/node_1.log"}
    ended = {"ended": "2026-11-30T18:00:00+0000", "exit_code": 70, "action": "stop", "reason": "gave up"}
    (run_dir.launch(1) / "ended.json").write_text(json.dumps(ended | {"cause": cause | {"last_lines": ["step 7"]}}))
    assert diagnosis_text(run_dir).splitlines() == [
        "launch 1: 0 of 2 ranks have given a sign of life",
        "it has ended at 2026-11-30T18:00:00+0000 with exit code 70: gave up",
        "first cause on n2: rank 1 was killed by SIGKILL; the end of /x/node_1.log:",
        "  step 7",
        f"logs: {run_dir.launch(1)}/node_*.log",
    ]
