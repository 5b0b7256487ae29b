"""One command from raw files to a channel on a real Slurm, and what it does about jobs of what has changed since."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import small_tokenizers
from cluster import Cluster

pytest.importorskip("datatrove")

CORPUS = """\
output: {folder}/{name}/corpus
sources:
  web: {{input: [{folder}/raw], clean: {{preset: light}}, dedup: {{methods: [exact]}}{more}}}
executor:
  kind: {kind}
  slurm: {{partition: short, time: "10", mem_per_cpu_gb: 1, tokenize_cpus: 2, sbatch: {{{sbatch}}}}}
tokenize: {{tokenizer: {folder}/tokenizer.json, output: {folder}/{name}/data}}
"""


def prepare(cluster: Cluster, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "harness.cli", "data", "prepare", "--config", str(file), *arguments)
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of text, and a tokenizer."""
    generator = random.Random(4)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(300)]
    (tmp_path / "raw").mkdir()
    for number in range(3):
        lines = [json.dumps({"text": " ".join(generator.choices(words, k=60))}) for _ in range(10)]
        (tmp_path / "raw" / f"{number}.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    small_tokenizers.byte_level().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def corpus_file(folder: Path, name: str, kind: str, sbatch: str = "", more: str = "") -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(CORPUS.format(folder=folder, name=name, kind=kind, sbatch=sbatch, more=more))
    return file


def parts_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def test_slurm_prepares_what_this_machine_prepares(cluster: Cluster, folder: Path) -> None:
    here = prepare(cluster, corpus_file(folder, "here", "local"))
    assert here.returncode == 0, here.stdout + here.stderr
    there = prepare(cluster, corpus_file(folder, "there", "slurm"), "--wait")
    assert there.returncode == 0, there.stdout + there.stderr
    assert [there.stderr.count(f"{step} web: 0 of") for step in ("clean", "dedup", "tokenize")] == [1, 1, 1]
    assert parts_in(folder / "there/data/web") == parts_in(folder / "here/data/web")
    endings = ("bin", "idx", "provenance")
    assert list(parts_in(folder / "there/data/web")) == [f"part-00000.{ending}" for ending in endings]
    job = json.loads((folder / "there/corpus/tokenized/web/.stages/jobs.json").read_text())[0]
    assert cluster.job(f"{job}_0")["NumCPUs"] == "2"
    again = prepare(cluster, folder / "there.yaml")
    assert again.stdout.count("up to date") == 3 and "submitted" not in again.stderr


def test_jobs_of_what_has_changed_since_are_not_worked_against(cluster: Cluster, folder: Path) -> None:
    first = prepare(cluster, corpus_file(folder, "held", "slurm", sbatch="hold: ''"))
    assert first.returncode == 0 and "clean web: 0 of 3 tasks done, submitted as " in first.stderr
    job = first.stderr.partition("submitted as ")[2].partition(".")[0]
    asked = prepare(cluster, folder / "held.yaml")
    assert f"in the queue as {job}" in asked.stderr
    (folder / "raw/3.jsonl").write_text(json.dumps({"text": "a new file " * 20}) + "\n")
    changed = prepare(cluster, corpus_file(folder, "held", "slurm"))
    assert changed.returncode == 64
    assert f"scancel {job}" in changed.stderr
    cluster.command("scancel", job)
    cluster.wait_for(lambda: cluster.command("squeue", "--noheader") == "", timeout_s=60, what=job)
    last = prepare(cluster, folder / "held.yaml", "--wait")
    assert last.returncode == 0, last.stdout + last.stderr
    assert "31 documents" in last.stdout
