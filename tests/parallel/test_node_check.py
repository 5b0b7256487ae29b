"""What is wrong with nodes, by what their ranks found; and two real ranks that look at each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.launch.machine import free_port

CONFIG = """\
run: {name: small}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}
parallel: {pipeline_model_parallel_size: 2}
data: {channels: {zh: {path: zh}}}
phases: [{name: main, train_steps: 10, seq_length: 32, global_batch_size: 64, blend: {zh: 1}}]
optimizer: {learning_rate: 3e-4}
"""
JUDGE = """
import json, sys
from harness.parallel.node_check import RankReport, problems, slow_groups
reports = [RankReport(**fields) for fields in json.load(sys.stdin)]
print(json.dumps([problems(reports), slow_groups(reports)]))
"""
QUIET = (sys.executable, "-W", "ignore")


def report(rank: int, **changes: Any) -> dict[str, Any]:
    usual = {
        "rank": rank,
        "host": f"n{rank}",
        "device": "H100",
        "memory_gib": 80.0,
        "versions": {"torch": "2.9"},
        "clock_s": 1000.0,
        "sees_file": True,
        "all_reduce_ms": {"world": 10.0},
        "gib_per_s": {"world": 100.0},
    }
    return {**usual, **changes}


def test_what_is_wrong_is_told_by_host() -> None:
    reports = [
        report(0),
        report(1, sees_file=False),
        report(2, versions={"torch": "2.8"}),
        report(3, device="A100"),
        report(4, clock_s=993.0),
        report(5, all_reduce_ms={"world": 90.0}),
        report(6, clock_s=1004.0, all_reduce_ms={"world": 29.0}),
    ]
    done = subprocess.run(
        (*QUIET, "-c", JUDGE), input=json.dumps(reports), capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout) == [
        [
            "n1 (rank 1) does not see what rank 0 writes into the run's directory: is it on a shared disk?",
            "n2 (rank 2) has torch 2.8, others have torch 2.9",
            "n3 (rank 3) computes on A100, others on H100",
            "n4 (rank 4) has a clock that is -7.0 s off",
        ],
        ["n5 (rank 5): all-reduce over its world group takes 90.0 ms, elsewhere 10.0 ms"],
    ]


def start(launch: Path, rank: int, port: int) -> subprocess.Popen[str]:
    ranks = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **ranks, "MASTER_PORT": str(port - 1), "GLOO_SOCKET_IFNAME": "lo"}
    command = (*QUIET, "-m", "harness.parallel.node_check", "--launch", str(launch))
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_ranks_look_at_each_other(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    port = free_port()
    ranks = [start(tmp_path, rank, port) for rank in range(2)]
    try:
        told = [rank.communicate(timeout=150) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], told
    lines = told[0][0].splitlines()
    assert lines[0].startswith("nodes: 2 ranks on 1 hosts, cpu; harness ")
    assert [line.split(":")[0] for line in lines[1:3]] == ["  world", "  pipeline"]
    assert told[1][0] == ""
    assert [fields["sees_file"] for fields in json.loads((tmp_path / "nodes.json").read_text())] == [True, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "nodes.json"]
