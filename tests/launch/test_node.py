"""The workers of one node, with small programs in place of the trainer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError, UsageError
from harness.launch import local, node
from harness.launch.last_words import read_stacks
from harness.launch.node import main, run_node
from harness.parallel.environment import NodePlace, read_node
from harness.run.launch_requests import request_kill
from harness.run.launches import NodeEnd, node_ends
from harness.run.paths import RunDir

SECOND = NodePlace(index=1, count=2, master_address="n1", master_port=12345)
TELLS = """
import json, os, sys
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
print(json.dumps({"arguments": sys.argv[1:], **{name: os.environ.get(name) for name in names}}))
sys.exit(75)
"""

CONFIG = """\
run: {name: small}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}
data: {channels: {zh: {path: zh}}}
phases: [{name: main, train_steps: 10, seq_length: 32, global_batch_size: 64, blend: {zh: 1}}]
optimizer: {learning_rate: 3e-4}
launch: {check_nodes: false}
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A launch with two workers a node."""
    monkeypatch.setattr(node, "count_gpus", lambda: 0)
    monkeypatch.setattr(local, "count_cores", lambda: 8)
    monkeypatch.setattr(node.socket, "gethostname", lambda: "n2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "launch.json").write_text(json.dumps({"workers_per_node": 2}))
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def test_workers_of_the_second_node_get_the_ranks_that_follow(launch: Path) -> None:
    code = run_node(RunDir(launch / "run"), launch, SECOND, (sys.executable, "-c", TELLS))
    assert code == 75
    told = [json.loads(line) for line in (launch / "node_1.log").read_text().splitlines()]
    told.sort(key=lambda one: one["RANK"])
    assert [(one["RANK"], one["LOCAL_RANK"]) for one in told] == [("2", "0"), ("3", "1")]
    for one in told:
        assert (one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) == ("4", "2")
        assert (one["MASTER_ADDR"], one["MASTER_PORT"]) == ("n1", "12345")
        assert one["OMP_NUM_THREADS"] == "4"
        config = str(launch / "config.yaml")
        assert one["arguments"] == ["--run-dir", str(launch / "run"), "--resume", "auto", "--config", config]
    assert node_ends(launch) == [NodeEnd(host="n2", exit_code=75)]


def test_a_worker_that_is_killed_ends_the_node_with_an_internal_error(
    launch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = (
        "import os, signal, time\nif os.environ['RANK'] == '3':\n"
        "    print('[rank 3] last words of rank 3', flush=True); os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)"
    )
    assert run_node(RunDir(launch / "run"), launch, SECOND, (sys.executable, "-c", body)) == 70
    (end,) = node_ends(launch)
    assert (end.host, end.exit_code) == ("n2", 70)
    assert end.failure is not None
    assert (end.failure.rank, end.failure.return_code) == (3, -9)
    assert end.failure.text.startswith("rank 3 was killed by SIGKILL: by a person")
    assert (end.failure.log, end.failure.last_lines) == (str(launch / "node_1.log"), ("last words of rank 3",))
    assert "rank 3 was killed by SIGKILL" in capsys.readouterr().err


@pytest.mark.parametrize(("check_code", "code"), [(0, 75), (70, 70)])
def test_only_nodes_that_are_fit_train(launch: Path, check_code: int, code: int) -> None:
    (launch / "config.yaml").write_text(CONFIG.replace("check_nodes: false", "check_nodes: true"))
    check = (sys.executable, "-c", f"import sys; print('checked', sys.argv[1:]); sys.exit({check_code})")
    run = RunDir(launch / "run")
    assert run_node(run, launch, SECOND, (sys.executable, "-c", TELLS), check) == code
    log = (launch / "node_1.log").read_text()
    assert f"checked ['--launch', '{launch}']" in log
    assert ("WORLD_SIZE" in log) == (check_code == 0)
    (end,) = node_ends(launch)
    assert (end.host, end.exit_code) == ("n2", code)
    assert (None if end.failure is None else end.failure.return_code) == (70 if code == 70 else None)


def test_a_launch_that_is_ordered_to_be_killed_is_killed(launch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request_kill(launch, "rank 3 is silent")
    run = RunDir(launch / "run")
    assert run_node(run, launch, SECOND, (sys.executable, "-c", "import time; time.sleep(600)")) == 70
    (end,) = node_ends(launch)
    assert end.failure is not None
    assert end.failure.text == "killed: rank 2, 3: rank 3 is silent"
    assert "killed: rank 2, 3: rank 3 is silent\n" in capsys.readouterr().err
    assert sorted(path.name for path in launch.glob("stacks_*")) == ["stacks_node_00001.txt"]
    assert sorted(read_stacks(launch / "stacks_node_00001.txt")) == [2, 3]


def test_a_node_that_lost_a_gpu_is_named(launch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "count_gpus", lambda: 1)
    message = r"n2 offers 1 GPUs for 2 workers; give `--gpus-per-node 1`, or look for GPUs that are lost"
    with pytest.raises(UsageError, match=message):
        run_node(RunDir(launch / "run"), launch, SECOND)


def test_a_node_that_lost_a_gpu_is_noted_where_the_job_shall_get_another(
    launch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "count_gpus", lambda: 1)
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    settings = "launch: {check_nodes: false, exclude_bad_nodes: true}"
    (launch / "config.yaml").write_text(CONFIG.replace("launch: {check_nodes: false}", settings))
    with pytest.raises(HarnessError, match="n2 offers 1 GPUs for 2 workers; the job takes another node") as caught:
        run_node(RunDir(launch / "run"), launch, SECOND)
    assert caught.value.exit_code == 70
    noted = json.loads((launch / "bad_node_00001.json").read_text())
    assert noted == {"n2": ["n2 offers 1 GPUs for 2 workers"]}


def test_a_launch_that_was_not_begun_is_told(launch: Path) -> None:
    (launch / "launch.json").unlink()
    with pytest.raises(UsageError, match="does not say how many workers a node has; was the job begun"):
        run_node(RunDir(launch / "run"), launch, SECOND)


def test_the_place_comes_from_srun_and_the_batch_script() -> None:
    environ = {"SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "12345"}
    assert read_node(environ) == SECOND
    with pytest.raises(UsageError, match=r"MASTER_ADDR is not set; slurm/train.sbatch sets it"):
        read_node({**environ, "MASTER_ADDR": ""})
    with pytest.raises(UsageError, match="the environment variable SLURM_NODEID is ''"):
        read_node({"MASTER_ADDR": "n1"})


def test_outside_of_a_job_it_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main([str(tmp_path), str(tmp_path)]) == 64
    assert capsys.readouterr().err.startswith("harness: error: MASTER_ADDR is not set")


def test_an_end_that_cannot_be_written_down_keeps_its_code(launch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (launch / "node_00001.json" / "full").mkdir(parents=True)
    assert run_node(RunDir(launch / "run"), launch, SECOND, (sys.executable, "-c", TELLS)) == 75
    assert "the end of this node cannot be written" in capsys.readouterr().err
