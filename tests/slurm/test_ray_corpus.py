"""The corpus file on Ray, where it is installed: what it makes is what a local pool makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import small_tokenizers

pytest.importorskip("datatrove")
pytest.importorskip("ray")

SENTENCES = (
    "It was a bright cold day in the early part of April, and the clocks of the town were striking. People went by."
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "harness.cli", "data", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    for number in range(3):
        texts = (SENTENCES, SENTENCES.upper(), f"{SENTENCES} {number}")
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / "raw" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "corpus.yaml").write_text(
        f"output: {tmp_path}/made\nsources:\n"
        f"  web: {{input: [{tmp_path}/raw], kind: knowledge, dedup: {{methods: [exact]}}}}\n"
        "executor: {ray: {mem_per_cpu_gb: 0.2}}\n"
    )
    return tmp_path / "corpus.yaml"


@pytest.mark.slurm
def test_ray_makes_what_this_machine_makes(file: Path) -> None:
    made = []
    for kind in ("local", "ray"):
        for verb in ("clean", "dedup"):
            done = run(verb, "--config", file, "--executor", kind)
            assert done.returncode == 0, done.stdout + done.stderr
        folder = file.parent / "made"
        made.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jsonl")})
        folder.rename(file.parent / kind)
    assert len(made[0]) == 6 and made[0] == made[1]


@pytest.mark.slurm
def test_ray_prepares_what_this_machine_prepares(file: Path) -> None:
    small_tokenizers.byte_level().save(str(file.parent / "tokenizer.json"))
    made = []
    for kind in ("local", "ray"):
        section = f"tokenize: {{tokenizer: {file.parent}/tokenizer.json, output: {file.parent}/{kind}/data}}\n"
        corpus = file.with_name(f"{kind}.yaml")
        corpus.write_text(file.read_text().replace(f"{file.parent}/made", f"{file.parent}/{kind}/corpus") + section)
        done = run("prepare", "--config", corpus, "--executor", kind)
        assert done.returncode == 0, done.stdout + done.stderr
        folder = file.parent / kind / "data" / "web"
        made.append({path.name: path.read_bytes() for path in folder.glob("part-*")})
    assert len(made[0]) == 2 and made[0] == made[1]
