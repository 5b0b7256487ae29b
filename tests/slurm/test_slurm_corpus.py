"""Cleaning and de-duplication as array jobs on a real Slurm of two nodes, by the corpus file that also runs here."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster

pytest.importorskip("datatrove")
pytest.importorskip("rensa")

CORPUS = """\
output: {folder}/{name}
sources:
  web: {{input: [{folder}/raw], clean: {{preset: light}}, dedup: {{methods: [minhash], keep: 75%}}}}
executor:
  kind: {kind}
  local: {{workers: 2}}
  slurm: {{partition: short, time: "10", mem_per_cpu_gb: 1}}
"""


def harness(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "harness.cli", "data", *arguments)
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four files; every text of the first two is, nearly, in the last two again."""
    generator = random.Random(4)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(3000)]
    texts = [generator.choices(words, k=200) for _ in range(20)]
    (tmp_path / "raw").mkdir()
    for number in range(4):
        part = texts[:10] if number % 2 == 0 else texts[10:]
        lines = [json.dumps({"text": " ".join([f"copy{number}", *text])}) for text in part]
        (tmp_path / "raw" / f"{number}.jsonl").write_text("\n".join([*lines, "not JSON"]) + "\n")
    return tmp_path


def made_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.jsonl"))}


def test_slurm_makes_what_this_machine_makes(cluster: Cluster, raw: Path) -> None:
    for kind in ("local", "slurm"):
        (raw / f"{kind}.yaml").write_text(CORPUS.format(folder=raw, name=kind, kind=kind))
        for verb in ("clean", "dedup"):
            done = harness(cluster, verb, "--config", str(raw / f"{kind}.yaml"), "--wait")
            assert done.returncode == 0, done.stdout + done.stderr
            assert kind == "local" or "submitted as " in done.stderr
    here, there = made_files(raw / "local"), made_files(raw / "slurm")
    assert len(here) == 8 and here == there
    assert sum(content.count(b"\n") for name, content in there.items() if name.startswith("deduped")) == 20
    # Every task has a log of its own from Slurm.
    logs = sorted((raw / "slurm" / "deduped" / "web" / ".stages" / "minhash-keep" / "slurm_logs").iterdir())
    assert len(logs) >= 4


def test_who_asks_again_is_told_how_far_it_is(cluster: Cluster, raw: Path) -> None:
    (raw / "slurm.yaml").write_text(CORPUS.format(folder=raw, name="asked", kind="slurm"))
    first = harness(cluster, "clean", "--config", str(raw / "slurm.yaml"))
    assert (first.returncode, first.stdout) == (0, ""), first.stderr
    assert "clean web: 0 of 4 tasks done, submitted as " in first.stderr
    job = first.stderr.partition("submitted as ")[2].partition(".")[0]
    cluster.wait_for(lambda: cluster.command("squeue", "--noheader") == "", timeout_s=120, what=job)
    second = harness(cluster, "clean", "--config", str(raw / "slurm.yaml"))
    assert "kept 40 of 44 documents" in second.stdout, second.stderr


def test_a_task_that_fails_is_named(cluster: Cluster, raw: Path) -> None:
    (raw / "slurm.yaml").write_text(CORPUS.format(folder=raw, name="failed", kind="slurm"))
    (raw / "raw" / "9.jsonl.gz").write_bytes(b"no gzip")
    done = harness(cluster, "clean", "--config", str(raw / "slurm.yaml"), "--wait")
    assert done.returncode == 65, done.stdout + done.stderr
    assert "only 4 of 5 tasks are done" in done.stderr and ".stages" in done.stderr
