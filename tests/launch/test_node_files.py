"""What the ranks of a node write, in one file a kind, gathered by their launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.launch import node_files as module
from harness.launch.collectives_dump import read_dumps
from harness.launch.node_files import node_files
from harness.launch.workers import WorkerStart, run_workers
from harness.parallel.environment import COLLECTIVES_DUMP, HEARTBEATS, heartbeat_folder
from harness.run.heartbeats import Activity, read_beats
from harness.run.paths import RunDir

WORKER = """
import sys, time
from pathlib import Path
from harness.run.heartbeats import Activity, Heartbeat
from harness.parallel.environment import heartbeat_folder
rank = int(sys.argv[2])
folder = heartbeat_folder() or Path(sys.argv[1]) / "heartbeats"
with Heartbeat(folder / f"rank_{rank:05d}.json", rank) as beat:
    beat.enter(Activity.SAVE, 7)
"""


def beating(run_dir: RunDir, rank: int, environment: dict[str, str]) -> WorkerStart:
    return WorkerStart(
        command=(sys.executable, "-c", WORKER, str(run_dir.root), str(rank)),
        environment={**os.environ, **environment, "RANK": str(rank)},
        log=None,
    )


def test_a_node_has_one_file_and_every_rank_a_heartbeat(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.heartbeats.mkdir()
    for index in (0, 1):
        with node_files(run_dir, tmp_path, index) as heartbeats:
            folder = Path(heartbeats.environment[HEARTBEATS])
            starts = [beating(run_dir, 3 * index + number, heartbeats.environment) for number in range(3)]
            assert run_workers(starts, beside=heartbeats.gathering()) == 0
        assert not folder.exists()
    assert sorted(path.name for path in run_dir.heartbeats.iterdir()) == ["node_00000.json", "node_00001.json"]
    beats = list(read_beats(run_dir, only_own=True))
    assert [beat.rank for beat in beats] == list(range(6))
    assert {beat.activity for beat in beats} == {Activity.LEFT}
    assert {beat.step for beat in beats} == {7}


def test_without_a_launcher_there_is_no_folder_to_gather_from() -> None:
    assert heartbeat_folder({}) is None
    assert heartbeat_folder({HEARTBEATS: ""}) is None
    assert heartbeat_folder({HEARTBEATS: "/a"}) == Path("/a")


def test_the_newest_heartbeat_of_a_rank_counts(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.heartbeats.mkdir()

    def beat(time: float, step: int) -> dict[str, object]:
        fields = {"rank": 1, "host": "a", "pid": 1, "step": step, "phase": "data", "since": 1.0, "time": time}
        return {**fields, "spent_s": {}}

    run_dir.heartbeat(1).write_text(json.dumps(beat(5.0, 50)))
    run_dir.node_heartbeats(0).write_text(json.dumps({"ranks": [beat(6.0, 60), "broken", {"rank": 2}, 3]}))
    run_dir.node_heartbeats(1).write_text(json.dumps({"ranks": [beat(4.0, 40)]}))
    run_dir.node_heartbeats(2).write_text(json.dumps({"ranks": 3}))
    run_dir.node_heartbeats(3).write_text('{"ranks": [')
    assert [(found.rank, found.step) for found in read_beats(run_dir)] == [(1, 60)]


def test_without_room_on_the_node_ranks_write_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY", tmp_path / "nothing")
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path / "nothing"))
    run_dir = RunDir(tmp_path)
    with node_files(run_dir, tmp_path, 0) as heartbeats:
        assert heartbeats.environment == {HEARTBEATS: ""}
        assert run_workers([beating(run_dir, 0, heartbeats.environment)], beside=heartbeats.gathering()) == 0
    assert [path.name for path in run_dir.heartbeats.iterdir()] == ["rank_00000.json"]


def test_folders_of_killed_launchers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY", tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    user = os.geteuid()
    dead, alive = (tmp_path / f"harness-node-{user}-{process}-x" for process in (ended.pid, os.getpid()))
    of_another = tmp_path / f"harness-node-{user + 1}-{ended.pid}-x"
    for folder in (dead, alive, of_another):
        folder.mkdir()
    with node_files(RunDir(tmp_path / "run"), tmp_path, 0):
        pass
    assert not dead.exists()
    assert alive.exists()
    assert of_another.exists()


DUMPS = """
import os, pickle, sys
group = {"name": "0", "desc": "all", "ranks": "[0, 1, 2, 3]"}
content = pickle.dumps({"pg_config": {"0": group}, "entries": []})
with open(os.environ["TORCH_FR_DUMP_TEMP_FILE"] + os.environ["RANK"], "wb") as file:
    file.write(content)
sys.exit(70)
"""


def test_the_last_collectives_of_a_node_are_one_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a rank that has dumped them and left; and more of them as they come."""
    monkeypatch.delenv(COLLECTIVES_DUMP, raising=False)
    for index in (0, 1):
        with node_files(RunDir(tmp_path), tmp_path, index) as files:
            starts = [
                WorkerStart(
                    command=(sys.executable, "-c", DUMPS),
                    environment={**os.environ, **files.environment, "RANK": str(rank)},
                    log=tmp_path / "log",
                )
                for rank in (2 * index, 2 * index + 1)
            ]
            assert run_workers(starts, beside=files.gathering(), show=print) == 70
    recorder = tmp_path / "flight_recorder"
    assert sorted(path.name for path in recorder.iterdir()) == ["node_00000.tar", "node_00001.tar"]
    assert {rank: dump["0"].members for rank, dump in read_dumps(recorder).items()} == dict.fromkeys(
        range(4), (0, 1, 2, 3)
    )


def test_where_the_job_chooses_a_place_for_collectives_nothing_is_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COLLECTIVES_DUMP, str(tmp_path / "elsewhere_"))
    with node_files(RunDir(tmp_path), tmp_path, 0) as files:
        assert files.environment[COLLECTIVES_DUMP] == str(tmp_path / "elsewhere_")
        assert files.dump_of(3) == tmp_path / "elsewhere_3"
