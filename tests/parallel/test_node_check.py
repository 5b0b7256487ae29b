"""Real ranks that look at each other, and one that does not answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
QUIET = (sys.executable, "-W", "ignore")
MODULE = ("-m", "harness.parallel.node_check")


PATIENCE = """
import sys
from harness.parallel import node_check
node_check.ANSWER_WITHIN_S = 2.0
sys.exit(node_check.main(sys.argv[1:]))
"""


def start(launch: Path, rank: int, port: int, program: tuple[str, ...] = MODULE) -> subprocess.Popen[str]:
    ranks = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    ranks |= {"MASTER_ADDR": "127.0.0.1", "SLURMD_NODENAME": f"n{rank + 1}"}
    environment = {**os.environ, **ranks, "MASTER_PORT": str(port - 1), "GLOO_SOCKET_IFNAME": "lo"}
    command = (*QUIET, *program, "--launch", str(launch))
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
    assert lines[0].startswith("nodes: 2 ranks on 2 hosts, cpu; harness ")
    assert [line.split(":")[0] for line in lines[1:3]] == ["  world", "  pipeline"]
    assert told[1][0] == ""
    first, second = json.loads((tmp_path / "nodes.json").read_text())
    assert (first["host"], second["host"]) == ("n1", "n2")
    assert first["sees_file"]
    assert second["sees_file"]
    assert first["exchange_ms"].keys() == {"n2"}
    assert second["exchange_ms"].keys() == {"n1"}
    assert min(first["compute_ms"], second["compute_ms"], first["exchange_ms"]["n2"]) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "nodes.json"]


@pytest.mark.slow
def test_a_node_that_does_not_answer_is_named_and_noted(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "nodes.txt").write_text("n1\nn2\n")
    rank = start(tmp_path, 0, free_port(), ("-c", PATIENCE))
    _, told = rank.communicate(timeout=150)
    assert rank.returncode == 70
    assert told.splitlines()[-1] == (
        "harness: error: 1 of 2 ranks did not answer within 2 s: rank 1 on n2; look at node_*.log there"
    )
    assert json.loads((tmp_path / "bad_nodes.json").read_text()) == {"n2": ["n2 did not answer within 2 s"]}
