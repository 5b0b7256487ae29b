"""A long phase in ten minutes: samples grow from 64 to 512 tokens in another layout, with four kinds of positions.

    python -m benchmarks.long_phase [--main-steps 2500] [--long-steps 200] [--save OUTPUT.json]

Data of which a model learns to look back: blocks of random tokens, each three times. The phase `main` has blocks of up
to 40 tokens, on two replicas; `long` ones of up to 480, on two ranks that share samples. It goes on from one checkpoint
in four ways: as it was, with a larger base, with positions divided by eight, with YaRN. The probes say what comes of
it: needles by depth, and the held-out loss by position. 0 is a needle that is found; the logarithm of the vocabulary,
4.16, one that is not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from harness.run.paths import RunDir
from harness.run.records import StepRecord, read_records

VOCAB_SIZE = 64
SHORT, LONG = 64, 512
GROWTH = LONG // SHORT
EVALUATE_EVERY = 20
WAYS: Mapping[str, dict[str, Any]] = {
    "as it was": {},
    "base 10,000 -> 80,000": {"rotary_base": 80_000.0},
    "positions / 8": {"rope_scaling": {"type": "linear", "factor": float(GROWTH)}},
    "YaRN, factor 8": {
        "rope_scaling": {"type": "yarn", "factor": float(GROWTH), "original_max_position_embeddings": SHORT}
    },
}
_CHANNELS = {  # documents, tokens of each, longest block
    "short": (40_000, SHORT + 1, 40),
    "long": (3000, LONG + 1, 480),
    "held_out": (64, LONG + 1, 480),
}


def write(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def write_corpus(root: Path) -> None:
    """Write documents of blocks, each three times; lengths of blocks are even in their logarithm."""
    for seed, (name, (num_documents, length, longest)) in enumerate(_CHANNELS.items()):
        random = np.random.RandomState(seed)
        (root / name).mkdir(parents=True)
        writer = PartWriter(root / name, 0, token_dtype(VOCAB_SIZE))
        for _ in range(num_documents):
            tokens: list[int] = []
            while len(tokens) < length:
                size = int(math.exp(random.uniform(math.log(8), math.log(longest))))
                tokens += random.randint(VOCAB_SIZE, size=size).tolist() * 3
            writer.add_document(tokens[:length])
        writer.finish()


def configuration(
    root: Path, options: argparse.Namespace, way: Mapping[str, Any], stop_at_step: int | None = None
) -> dict[str, Any]:
    """Return the plan of both phases."""
    return {
        "run": {"name": "long_phase", "stop_at_step": stop_at_step},
        "model": {
            "num_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 2,
            "kv_channels": 64,
            "ffn_hidden_size": 128,
            "vocab_size": VOCAB_SIZE,
            "vocab_size_multiple_of": 1,
            "init_method_std": 0.1,
        },
        "parallel": {"data_parallel_size": 2, "micro_batch_size": 16},
        "data": {
            "channels": {
                "short": {"path": str(root / "short")},
                "long": {"path": str(root / "long"), "validation_path": str(root / "held_out")},
            }
        },
        "phases": [
            {
                "name": "main",
                "train_steps": options.main_steps,
                "seq_length": SHORT,
                "global_batch_size": 32,
                "blend": {"short": 1},
                "schedule": {"style": "constant", "warmup_steps": 20},
                "evaluation": {"every_steps": 250, "channels": ["long"]},
            },
            {
                "name": "long",
                "train_steps": options.long_steps,
                "seq_length": LONG,
                "global_batch_size": 32 // GROWTH,
                "blend": {"short": 1, "long": 3},
                "schedule": {"style": "constant", "continues": True},
                "evaluation": {"every_steps": EVALUATE_EVERY, "channels": ["long"]},
                "parallel": {"context_parallel_size": 2, "micro_batch_size": 4},
                **way,
            },
        ],
        "optimizer": {"learning_rate": 4e-3},
        "precision": {"dtype": "fp32"},
        "evaluation": {"num_samples_per_channel": 16, "loss_by_position": True, "num_needles_per_depth": 8},
        "checkpoint": {"keep_last": 1},
        "logging": {"tensorboard": False, "console_every_steps": 100},
    }


def train(root: Path, run_dir: Path, config: dict[str, Any]) -> list[StepRecord]:
    """Train until the run stops, and return its steps."""
    path = root / f"{run_dir.name}.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "harness.cli", "train", str(path), "--run-dir", str(run_dir)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode("utf-8", "replace"))
        raise SystemExit(done.returncode)
    return list(read_records(RunDir(run_dir).metrics))


def probes(record: StepRecord) -> str:
    """Return what the probes say at a step: needles by depth, then held-out loss by position."""
    needles = [record.values[f"valid/needle_loss/{depth}"] for depth in range(0, 100, 10)]
    prefix = "valid/position_loss/long/"
    places = [(name.removeprefix(prefix), loss) for name, loss in record.values.items() if name.startswith(prefix)]
    return (
        " ".join(f"{loss:5.2f}" for loss in needles)
        + "  | "
        + "  ".join(f"{start}: {loss:.2f}" for start, loss in places)
    )


def main() -> None:
    """Train, and print what the probes say."""
    parser = argparse.ArgumentParser(description="A long phase, in four ways, with probes.")
    parser.add_argument("--main-steps", type=int, default=2500, help="steps of 64 tokens a sample")
    parser.add_argument("--long-steps", type=int, default=200, help="steps of 512 tokens a sample")
    parser.add_argument("--save", type=Path, help="write what the probes said as JSON")
    options = parser.parse_args()
    write(
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}; needles at depths of "
        "0 % to 90 %, then held-out loss from position to position, in nats"
    )
    found: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="harness-long-") as temporary:
        root = Path(temporary)
        write_corpus(root / "data")
        first = train(root, root / "main", configuration(root / "data", options, {}, options.main_steps))[-1]
        write(f"{'main, at its end':<24}{first.step:>6}  {probes(first)}")
        for number, (name, way) in enumerate(WAYS.items()):
            run_dir = root / f"way-{number}"
            shutil.copytree(root / "main", run_dir, symlinks=True)
            records = train(root, run_dir, configuration(root / "data", options, way))
            shown = [record for record in records if record.phase == "long" and "valid/lm_loss/long" in record.values]
            for record in shown:
                if (record.step - options.main_steps) in (EVALUATE_EVERY, 2 * EVALUATE_EVERY, options.long_steps):
                    write(f"{name:<24}{record.step:>6}  {probes(record)}")
            found[name] = {record.step: dict(record.values) for record in shown}
    if options.save:
        options.save.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
