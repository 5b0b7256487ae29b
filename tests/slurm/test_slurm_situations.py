"""Situations of an operator's life, on a real Slurm: what `harness status` says, who is told what, how soon, how often.

The table in docs/operations.md has a row for each. The trainer is a stand-in that shows what a trainer shows; batch
script, launchers, watcher, alerts and Slurm are the real ones.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from scene import Scene, use_cluster

pytestmark = pytest.mark.timeout(600)

TRAINS: dict[str, Any] = {"train": {}}
Make = Callable[..., Scene]


@pytest.fixture
def make(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes the scene of a run whose launches behave as told; the last behaviour holds for all that follow."""
    for name, value in use_cluster(cluster).items():
        monkeypatch.setenv(name, value)
    scenes: list[Scene] = []

    def begin(*behaviours: dict[str, Any]) -> Scene:
        scene = Scene(cluster, tmp_path, behaviours or (TRAINS,))
        scenes.append(scene)
        return scene

    yield begin
    for scene in scenes:
        scene.close()


def finishes(after: int = 10) -> dict[str, Any]:
    return {"train": {"until_step": after}}


@pytest.mark.smoke
def test_the_life_of_a_run_in_peace(make: Make) -> None:
    """Held, queued, started, evaluated, saved, requeued, held again, finished: told truly, and nobody is paged."""
    scene = make(
        {"train": {"start_s": 2.0, "evaluate_at": 20, "save_at": 120}}, {"train": {}}, {"train": {"until_step": 1}}
    )
    scene.submit(None, "--set", "launch.sbatch_flags=[--hold]")
    scene.watch_from_outside()
    scene.wait_for_state("held")
    assert "`scontrol release " in str(scene.now().reason)
    scene.slurm("scontrol", "release", scene.job_id)
    scene.wait_for_state("evaluating")
    scene.wait_for_state("saving")
    scene.wait_for_state("training")
    assert scene.harness("signal", "run", "save-and-stop").returncode == 0
    scene.wait_for_state("requeued")
    scene.wait_for_state("training")
    scene.slurm("scontrol", "requeuehold", scene.job_id)
    scene.wait_for_state("held")
    scene.slurm("scontrol", "release", scene.job_id)
    scene.wait_for_state("finished")
    scene.wait_for_told("finished")
    assert scene.watcher_left() == 0
    passing = ("ending", "queued", "requeued")  # between two others
    words = [word for word, _ in groupby(word for word in scene.states() if word not in passing)]
    assert words == [
        "held", "starting", "training", "evaluating", "training", "saving", "training",
        "starting", "training", "held", "starting", "finished",
    ]  # fmt: skip
    assert scene.kinds() == [("info", "finished", "open")]


@pytest.mark.smoke
def test_a_crash_loop_pages_once_though_every_node_is_gone(make: Make) -> None:
    scene = make({"train": {"until_step": 5}, "exit": 70})
    scene.submit(None, watch=True, max_failures_without_progress=2)
    scene.wait_for_state("failed")
    seconds = scene.wait_for_told("failed")
    assert seconds < 5
    assert scene.kinds() == [("warning", "restart", "open"), ("page", "failed", "open")]
    page = scene.told()[-1]
    assert "nothing new was saved in 2 launches in a row" in page["what"]
    assert re.search("first cause: rank [01] left with exit code 70", page["what"])
    assert (page["run"], page["directory"]) == ("scene", str(scene.run_dir.root))
    assert "gone" not in scene.states()
    assert scene.now().needs_person


def test_a_page_that_nobody_took_is_delivered_by_whoever_looks_next(make: Make) -> None:
    scene = make({"train": {"until_step": 5}, "exit": 76})
    scene.webhook_is_down.touch()
    scene.submit(None, watch=True)
    scene.wait_for_state("failed")
    scene.wait(lambda: bool(scene.now().alerts["waiting"]), "a message waits")
    assert "1 messages wait to be delivered since" in scene.harness("status", "run").stdout
    assert scene.told() == []
    scene.webhook_is_down.unlink()
    assert scene.harness("watch", "run", "--once").returncode == 0
    assert scene.kinds() == [("page", "failed", "open")]
    assert scene.harness("watch", "run", "--once").returncode == 0
    assert len(scene.told()) == 1


@pytest.mark.parametrize(
    ("code", "state", "told"),
    [
        (64, "failed", ("page", "failed", "open")),
        (65, "failed", ("page", "failed", "open")),
        (76, "failed", ("page", "failed", "open")),
        (77, "stopped", ("info", "stopped", "open")),
    ],
)
def test_each_end_that_is_final_is_told_once(make: Make, code: int, state: str, told: tuple[str, str, str]) -> None:
    scene = make({"train": {"until_step": 3}, "exit": code})
    scene.submit(None, watch=True)
    scene.wait_for_state(state)
    assert scene.wait_for_told(told[1]) < 5
    assert scene.kinds() == [told]
    assert "gone" not in scene.states()


def test_what_slurm_does_to_a_job_is_no_page(make: Make, cluster: Cluster) -> None:
    """Preempted, its node taken down, its time limit: it comes back each time, and nobody is told but of the end."""
    scene = make(TRAINS, TRAINS, TRAINS, {"train": {"until_step": 1}})
    scene.submit()
    scene.watch_from_outside()
    scene.wait_for_state("training")
    scene.slurm("scontrol", "requeue", scene.job_id)
    scene.wait_for_state("requeued")
    scene.wait_for_state("training")
    scene.slurm("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")  # it comes back by itself
    scene.wait_for_state("requeued")
    scene.wait_for_state("training")
    scene.slurm("scontrol", "update", f"JobId={scene.job_id}", "TimeLimit=1")  # Slurm looks every half minute
    scene.wait_for_state("requeued", timeout_s=200)
    scene.slurm("scontrol", "update", f"JobId={scene.job_id}", "TimeLimit=60")
    scene.wait_for_state("finished")
    assert scene.watcher_left() == 0
    assert scene.kinds() == [("info", "finished", "open")]
    assert not {"gone", "failed", "unknown"} & set(scene.states())


@pytest.mark.smoke
def test_a_rank_that_is_killed_is_named_as_the_first_cause_and_its_return_is_told(make: Make) -> None:
    scene = make(TRAINS, TRAINS, finishes(80))
    scene.submit(None, watch=True)
    scene.wait_for_steps(5)
    os.kill(max(scene.processes(1, "harness.train.worker")), signal.SIGKILL)
    scene.wait_for_told("restart")
    told = scene.told()[-1]
    assert "first cause: rank 1 was killed by SIGKILL" in told["what"]
    ended = json.loads((scene.run_dir.launch(1) / "ended.json").read_text())
    assert ended["cause"]["log"] == str(scene.run_dir.launch(1) / "node_1.log")
    assert "first cause: rank 1 was killed by SIGKILL" in (scene.run_dir.job_log(scene.job_id)).read_text()
    scene.wait_for_state("training")
    scene.wait_for_told("restart", "over")
    (launcher,) = scene.processes(1, "harness.launch.node")
    os.kill(launcher, signal.SIGKILL)
    scene.wait_for_told("restart", count=2)
    scene.wait_for_state("finished")
    scene.wait_for_told("finished")
    kinds = scene.kinds()
    assert kinds[:3] == [("warning", "restart", "open"), ("warning", "restart", "over"), ("warning", "restart", "open")]
    assert {kind for _, kind, _ in kinds} == {"restart", "finished"}
    assert not {"gone", "failed"} & set(scene.states())


def test_a_watcher_that_is_killed_comes_back_and_tells_what_happened_meanwhile(make: Make) -> None:
    scene = make({"train": {"until_step": 450, "save_fails_at": 60}})
    scene.submit(None, watch=True)
    scene.wait_for_steps(3)
    scene.wait(lambda: bool(scene.processes(0, "harness.cli")), "the watcher runs")
    for pid in scene.processes(0, "harness.cli"):
        os.kill(pid, signal.SIGKILL)
    scene.wait_for_told("save-failed", timeout_s=60)  # started again after half a minute
    scene.wait_for_state("finished")
    scene.wait_for_told("finished")
    words = [state for _, kind, state in scene.kinds() if kind == "save-failed"]
    assert words == ["open", "over"]  # over with the run


@pytest.mark.parametrize("activity", ["data", "forward-backward", "save"])
def test_a_hang_is_ended_told_as_one_thing_and_its_end_too(make: Make, activity: str) -> None:
    hangs: dict[str, Any] = {"hang": activity, "hang_at": 6}
    if activity == "save":
        hangs["save_at"] = 6
    scene = make({"train": hangs}, finishes(200))
    scene.submit({"kill_hung_after_s": 4 if activity == "save" else 12}, watch=True)
    scene.wait_for_state("saving" if activity == "save" else "training")
    scene.wait_for_told("killed")
    assert f", {activity}: rank" in scene.told()[0]["what"]
    scene.wait_for_state("requeued")
    scene.wait_for_state("training")
    scene.wait_for_told("restart", "over")
    scene.wait_for_state("finished")
    scene.wait_for_told("finished")
    words = [(kind, state) for _, kind, state in scene.kinds()]
    assert words == [("killed", "open"), ("restart", "over"), ("finished", "open")]
    assert not {"gone", "failed"} & set(scene.states())


def test_a_run_that_stands_still_is_a_page_and_its_next_step_is_told(make: Make) -> None:
    scene = make(finishes(300))
    scene.submit({"stalled_after_s": 15}, watch=True)
    scene.wait_for_steps(20)
    (worker,) = scene.processes(0, "harness.train.worker")[-1:]
    os.kill(worker, signal.SIGSTOP)
    seconds = scene.wait_for_told("stalled")
    assert seconds < 45  # it looks every twenty seconds
    scene.wait(lambda: scene.now().late is not None, "status says that it is late", timeout_s=100)
    assert "no step since" in str(scene.now().late)
    assert scene.now().time_left_s is None
    os.kill(worker, signal.SIGCONT)
    scene.wait_for_told("stalled", "over")
    scene.wait_for_state("finished")
    scene.wait_for_told("finished")
    assert scene.kinds()[:2] == [("page", "stalled", "open"), ("page", "stalled", "over")]
    assert [kind for _, kind, _ in scene.kinds()].count("stalled") == 2


def test_a_spike_a_failed_save_and_a_full_disk_are_told_with_their_ends(make: Make) -> None:
    scene = make({"train": {"until_step": 600, "spike": [450, 4.0], "save_fails_at": 60, "saves_again_at": 120}})
    scene.submit({"least_free_gib": 1e9}, watch=True)
    scene.wait_for_state("finished", timeout_s=400)
    scene.wait_for_told("finished")
    kinds = scene.kinds()
    assert [kind for kind in kinds if kind[1] == "save-failed"] == [
        ("page", "save-failed", "open"),
        ("page", "save-failed", "over"),
    ]
    assert [kind for kind in kinds if kind[1] == "disk"] == [
        ("warning", "disk", "open"),
        ("warning", "disk", "over"),  # with the run
    ]
    spikes = [kind for kind in kinds if kind[1] == "spike"]
    assert ("warning", "spike", "open") in spikes
    assert spikes.count(("warning", "spike", "over")) == spikes.count(("warning", "spike", "open"))


def test_a_job_that_is_killed_as_a_whole_is_gone_and_a_page(make: Make) -> None:
    scene = make(TRAINS)
    scene.submit(None, "--set", "launch.sbatch_flags=[]")
    scene.watch_from_outside()
    scene.wait_for_steps(5)
    ours = scene.cluster.processes("SLURM_JOB_ID", scene.job_id)
    for pid in ours:
        os.kill(pid, signal.SIGKILL)
    scene.wait_for_state("gone", "failed", "requeued")
    scene.wait_for_state("gone")
    assert scene.wait_for_told("gone") < 60
    assert scene.watcher_left() == 0
    assert scene.kinds() == [("page", "gone", "open")]


def test_a_job_that_is_cancelled_was_stopped(make: Make) -> None:
    scene = make(TRAINS)
    scene.submit(None, watch=True)
    scene.wait_for_steps(5)
    scene.slurm("scancel", scene.job_id)
    scene.wait_for_state("stopped")
    scene.wait_for_told("stopped")
    assert scene.kinds() == [("info", "stopped", "open")]
    assert not {"gone", "failed"} & set(scene.states())


def test_a_job_that_is_cancelled_in_the_queue_was_stopped(make: Make) -> None:
    scene = make(TRAINS)
    scene.submit(None, "--set", "launch.sbatch_flags=[--hold]")
    scene.watch_from_outside()
    scene.wait_for_state("held")
    scene.slurm("scancel", scene.job_id)
    scene.wait_for_state("stopped")
    assert scene.watcher_left() == 0
    assert scene.kinds() == [("info", "stopped", "open")]


def test_a_job_whose_dependency_can_never_be_met_is_a_page(make: Make, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "fails.sh").write_text("#!/bin/bash\nexit 3\n")
    other = cluster.command(
        "sbatch", "--parsable", "--hold", f"--output={tmp_path}/x", str(tmp_path / "fails.sh")
    ).strip()
    scene = make(TRAINS)
    scene.submit(None, "--dependency", f"afterok:{other}")
    scene.watch_from_outside()
    scene.wait_for_state("queued")
    cluster.command("scontrol", "release", other)
    scene.wait_for_state("held")
    assert scene.now().needs_person
    scene.wait_for_told("held")
    scene.slurm("scancel", scene.job_id)
    scene.wait_for_told("held", "over")
    assert scene.watcher_left() == 0
    assert scene.kinds()[0] == ("page", "held", "open")
    assert sorted(scene.kinds()[1:]) == [("info", "stopped", "open"), ("page", "held", "over")]


def test_where_slurms_controller_does_not_answer_nobody_is_paged(make: Make, cluster: Cluster) -> None:
    scene = make(TRAINS)
    scene.submit(None, "--set", "launch.sbatch_flags=[--hold]")
    scene.watch_from_outside()
    scene.wait_for_state("held")
    with cluster.controller_stopped():
        scene.wait(lambda: "Slurm does not answer here" in str(scene.now().reason), "Slurm does not answer", 60)
        assert scene.now().state == "queued"
    scene.wait_for_state("held")
    scene.slurm("scancel", scene.job_id)
    scene.wait_for_told("stopped")
    assert scene.kinds() == [("info", "stopped", "open")]
    assert not {"gone", "failed"} & set(scene.states())
