"""Measures the cost of `harness watch`.

    python -m benchmarks.watcher [--seconds 120] [--steps-per-second 2] [--channels 12]

The run is synthetic: a writer appends a record per step to its `metrics.jsonl`, with a checkpoint every hundred steps.
A real watcher runs beside it as users start it, with the default interval between two looks. Prints the share of a core
that it used after its start, and its resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

from harness.plan.layouts import Layout
from harness.run.checkpoints.manifest import FileRecord, Manifest, Versions, write_manifest
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line

_BATCH = 1024
_SEQ_LENGTH = 4096
_SETTLE_S = 5.0
_RECORDS_BEFORE = 20_000


def configuration(channels: list[str]) -> dict[str, object]:
    """Return a run with these channels; the watcher's settings are the defaults."""
    return {
        "run": {"name": "made-up"},
        "model": {
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "ffn_hidden_size": 64,
            "vocab_size": 256,
        },
        "data": {"channels": {name: {"path": name} for name in channels}},
        "phases": [
            {
                "name": "main",
                "train_steps": 1_000_000,
                "seq_length": _SEQ_LENGTH,
                "global_batch_size": _BATCH,
                "blend": dict.fromkeys(channels, 1),
            }
        ],
        "optimizer": {"learning_rate": 1e-4},
    }


def record(step: int, channels: list[str], noise: random.Random) -> StepRecord:
    """Return the record of a quiet step."""
    losses = {name: 2.0 + noise.gauss(0.0, 0.02) for name in channels}
    values = {"train/lm_loss": sum(losses.values()) / len(losses), "optim/grad_norm": 1.0 + noise.gauss(0.0, 0.05)}
    values |= {f"train/lm_loss/{name}": loss for name, loss in losses.items()}
    values |= {f"train/tokens/{name}": _BATCH * _SEQ_LENGTH / len(channels) for name in channels}
    values |= {"optim/learning_rate": 1e-4, "perf/step_time_s": 1.0, "perf/mfu_pct": 40.0, "optim/skipped": 0.0}
    return StepRecord(
        attempt=0,
        step=step,
        time=time.time(),
        phase="main",
        consumed_samples=step * _BATCH,
        consumed_tokens=step * _BATCH * _SEQ_LENGTH,
        batch_hash=step,
        values=values,
    )


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory_mb(pid: int) -> float:
    """Return the largest resident memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--steps-per-second", type=float, default=2.0)
    parser.add_argument("--channels", type=int, default=12)
    arguments = parser.parse_args()
    channels, noise = [f"channel{number}" for number in range(arguments.channels)], random.Random(0)
    with tempfile.TemporaryDirectory(prefix="harness-watcher-") as folder:
        run_dir = RunDir(Path(folder))
        run_dir.make_folders()
        run_dir.config.write_text(yaml.safe_dump(configuration(channels)))
        run_dir.events.write_text(json.dumps({"time": 1.0, "kind": "started", "attempt": 0, "step": 0}) + "\n")
        with run_dir.metrics.open("a") as file:
            file.writelines(to_json_line(record(step, channels, noise)) for step in range(1, _RECORDS_BEFORE + 1))
        watcher = subprocess.Popen([sys.executable, "-m", "harness.cli", "watch", folder], stdout=subprocess.DEVNULL)
        try:
            _wait_for(run_dir.watch_state)
            time.sleep(_SETTLE_S)
            before, started, step = processor_seconds(watcher.pid), time.monotonic(), _RECORDS_BEFORE
            while time.monotonic() - started < arguments.seconds:
                step += 1
                with run_dir.metrics.open("a") as file:
                    file.write(to_json_line(record(step, channels, noise)))
                if step % 100 == 0:
                    _save(run_dir, step)
                time.sleep(1 / arguments.steps_per_second)
            used, wall = processor_seconds(watcher.pid) - before, time.monotonic() - started
            share, memory_mb = 100 * used / wall, peak_memory_mb(watcher.pid)
            sys.stdout.write(
                f"{step - _RECORDS_BEFORE} steps in {wall:.0f} s, {len(channels)} channels, {_RECORDS_BEFORE:,} "
                f"records before: {share:.2f} % of a core, at most {memory_mb:.0f} MB resident\n"
            )
        finally:
            watcher.terminate()
            watcher.wait()
    return 0


def _save(run_dir: RunDir, step: int) -> None:
    folder = run_dir.checkpoint(step)
    folder.mkdir()
    write_manifest(folder, _manifest(step))


def _manifest(step: int) -> Manifest:
    """A manifest that reads as a whole checkpoint's; its one file is not there."""
    return Manifest(
        step=step,
        attempt=0,
        parent=None,
        health="clean",
        config_hash="0" * 16,
        versions=Versions(harness="0", megatron_core="0", torch="0", python="0"),
        layout=Layout(tensor=1, pipeline=1, virtual_pipeline=1, context=1, data=1),
        consumed_samples=step * _BATCH,
        consumed_tokens=step * _BATCH,
        learning_rate=1e-3,
        next_batch_hash=None,
        saved_at=datetime.now(UTC),
        save_seconds=1.0,
        cursor={},
        optimizer_norms={},
        last_losses=(),
        fingerprint={},
        files={"__0_0.distcp": FileRecord(bytes=3, xxh3="0" * 16)},
    )


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {path}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
