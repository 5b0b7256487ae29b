"""Whole runs of `harness train` on this machine's GPUs, or on its CPU."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.corpus import write_channel
from harness.run.paths import RunDir
from harness.run.records import read_records

VOCAB_SIZE = 1000
CHANNELS = ("zh", "en")
PATIENCE_S = 280.0

_VALUES: dict[str, Any] = {
    "run": {"name": "gpu", "seed": 7},
    "model": {
        "num_layers": 4,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "ffn_hidden_size": 512,
        "vocab_size": VOCAB_SIZE,
        "untie_embeddings_and_output_weights": False,
    },
    "parallel": {"micro_batch_size": 2, "data_parallel_size": 1},
    "phases": [
        {
            "name": "main",
            "train_steps": 20,
            "seq_length": 128,
            "global_batch_size": 8,
            "blend": {"zh": 3, "en": 1},
            "schedule": {"warmup_steps": 4},
        }
    ],
    "optimizer": {"learning_rate": 2e-3},
    "precision": {"dtype": "fp32"},
    "evaluation": {"every_steps": 5, "num_samples_per_channel": 8},
    "logging": {"tensorboard": False},
}


def write_text(folder: Path) -> Path:
    """Two channels that can be learnt."""
    for seed, name in enumerate(CHANNELS):
        write_channel(folder / name, vocab_size=VOCAB_SIZE, num_tokens=100_000, seed=seed)
    return folder


def values_of(text: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The configuration of a run with `changes` by dotted name."""
    values = copy.deepcopy(_VALUES)
    values["data"] = {"channels": {name: {"path": str(text / name)} for name in CHANNELS}}
    for place, value in (changes or {}).items():
        section, key = place.split(".")
        values.setdefault(section, {})[key] = value
    return values


def train(
    text: Path, run_dir: Path, changes: Mapping[str, Any] | None = None, *, on_gpu: bool = True, resume: str = "auto"
) -> RunDir:
    """A launch that must finish well, with `changes` by dotted name; its run directory."""
    config = run_dir.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(values_of(text, changes)))
    command = [sys.executable, "-m", "harness.cli", "train", str(config), "--run-dir", str(run_dir), "--resume", resume]
    environment = dict(os.environ) if on_gpu else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return RunDir(run_dir)


def column(run: RunDir, name: str) -> list[float]:
    """A metric of every step that has it."""
    return [record.values[name] for record in read_records(run.metrics) if name in record.values]
