"""Make the run of before anew, by the version that wrote it: README.md beside this file says how."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from data_prep.indexed_writer import PartWriter, token_dtype  # where it was then
from exactness import processor, tensor_hashes

VOCAB_SIZE = 64
CONFIG: dict[str, Any] = {
    "run": {"name": "before"},
    "model": {
        "num_layers": 2,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_query_groups": 1,
        "ffn_hidden_size": 16,
        "vocab_size": VOCAB_SIZE,
        "vocab_size_multiple_of": 64,
        "qk_layernorm": True,
        "rope_scaling": {"type": "llama3", "factor": 2.0, "original_max_position_embeddings": 16},
    },
    "data": {"channels": {"en": {"path": "data/en", "order": "window"}, "code": {"path": "data/code"}}},
    "phases": [
        {
            "name": "short",
            "train_steps": 10,
            "seq_length": 16,
            "global_batch_size": 4,
            "blend": {"en": 3, "code": 1},
            "schedule": {"style": "constant", "warmup_steps": 4},
        },
        {
            "name": "long",
            "train_steps": 14,
            "seq_length": 32,
            "global_batch_size": 4,
            "blend": {"en": 1, "code": 1},
            "schedule": {"style": "cosine"},
        },
    ],
    "optimizer": {"learning_rate": 1e-2},
    "precision": {"dtype": "fp32"},
    "logging": {"tensorboard": False},
    "checkpoint": {"save_every_steps": 4},
}
ROLLBACK = {
    "kind": "rollback",
    "to_step": 8,
    "skip_steps": [10, 11],
    "learning_rate_factor": 0.5,
    "for_steps": 6,
    "reason": "a spike",
}
REMOVED = ("step_0000004", "step_0000012")
COMPARED = ("step", "attempt", "train/lm_loss", "optim/grad_norm", "data/batch_hash")


def write_part(folder: Path, number: int, seed: int) -> None:
    random = np.random.RandomState(seed)
    folder.mkdir(parents=True, exist_ok=True)
    writer = PartWriter(folder, number, token_dtype(VOCAB_SIZE))
    for _ in range(40):
        writer.add_document(random.randint(0, VOCAB_SIZE, size=random.randint(10, 60)).tolist())
    writer.finish()


def harness(*arguments: str) -> str:
    command = [sys.executable, "-m", "harness.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(stop_at_step: str, *arguments: str) -> None:
    harness("train", "config.yaml", "--run-dir", "run", "--set", f"run.stop_at_step={stop_at_step}", *arguments)


def give(name: str, order: dict[str, Any]) -> None:
    Path("run/signals", name).write_text(json.dumps(order))


def steps_after(train_on: Callable[[], None]) -> list[dict[str, Any]]:
    """The records that training adds, as far as they are compared."""
    before = len(Path("run/metrics.jsonl").read_text().splitlines())
    train_on()
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()[before:]]
    return [{name: line[name] for name in COMPARED} for line in lines]


def samples(step: int, attempt: int) -> dict[str, Any]:
    """What the step was trained on."""
    chosen = ("--step", str(step), "--attempt", str(attempt))
    shown = json.loads(harness("data", "show", "run", *chosen, "--ids", "--json"))
    return {
        "step": step,
        "attempt": attempt,
        "parts": json.loads(harness("data", "where", "run", *chosen, "--json"))["parts"],
        "ids": {str(sample["position"]): sample["ids"] for sample in shown},
    }


def pack(archive: Path) -> None:
    """Without names of users."""
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(Path().rglob("*")):
            member = tar.gettarinfo(path)
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            if path.is_file():
                with path.open("rb") as file:
                    tar.addfile(member, file)
            else:
                tar.addfile(member)


def make_run() -> None:
    """Leave the run in the current folder, at step 14 of its attempt 1."""
    for seed, name in enumerate(("en", "code")):
        write_part(Path("data", name), 0, seed)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    train("8")
    write_part(Path("data/en"), 1, 7)
    give("documents.json", {"kind": "quarantine", "documents": {"en/part-00000": [3, 5]}, "reason": "garbled"})
    give("evidence.json", {"kind": "evidence", "steps": [7, 8]})
    train("12")
    give("back.json", ROLLBACK)
    train("14")
    harness("watch", "run", "--once")
    for name in REMOVED:  # which keeps the archive small
        shutil.rmtree(Path("run/checkpoints", name))


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    site, again = folder / "site", folder / "again"
    site.mkdir()
    os.chdir(site)
    make_run()
    pack(folder / "run.tar.xz")
    shutil.copytree(site, again)
    expected = {
        "processor": processor(),
        "torch": version("torch").partition("+")[0],
        "tensors": {name: tensor_hashes(Path("run/checkpoints", name)) for name in ("step_0000008.2", "step_0000014")},
        "samples": [samples(step, attempt) for step, attempt in ((8, 0), (10, 0), (12, 0), (10, 1), (13, 1))],
        "status": json.loads(harness("status", "run", "--json")),
        "checkpoints": json.loads(harness("checkpoint", "list", "run", "--json")),
        "resumed": steps_after(lambda: train("null")),
    }
    os.chdir(again)
    expected["watch"] = harness("watch", "run", "--once").splitlines()
    expected["rolled_back_to_8"] = steps_after(lambda: train("12", "--rollback-to", "8"))
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
