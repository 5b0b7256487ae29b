"""Small checkpoints for tests: a manifest, a few files, a store with saved steps."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.plan.layouts import Layout
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.manifest import FileRecord, Manifest, Parent, Versions, write_manifest
from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir

FINGERPRINT: dict[str, Any] = {
    "model": {"num_layers": 32, "hidden_size": 4096, "rope_base": 10000.0, "qk_norm": False},
    "data": {
        "seed": 1234,
        "channels": {
            "zh": {"parts": [{"prefix": f"part-{k:05d}", "tokens": 100 + k, "xxh3": f"{k:016x}"} for k in range(3)]},
            "en": {"parts": [{"prefix": "part-00000", "tokens": 7, "xxh3": "0" * 16}]},
        },
    },
    "tokenizer": {"vocab_size": 32000, "xxh3": "a" * 16},
}

FILES = {
    ".metadata": b"pickled index " * 20,
    "common.pt": b"pickled leaves " * 30,
    "metadata.json": b'{"sharded_backend": "torch_dist"}',
    "__0_0.distcp": bytes(range(256)) * 40,
    "__1_0.distcp": bytes(reversed(range(256))) * 40,
    "more/notes.txt": b"below a folder",
}


def sample_manifest(step: int, **changes: object) -> Manifest:
    values: dict[str, Any] = {
        "step": step,
        "attempt": 0,
        "parent": Parent(step=5, attempt=0),
        "health": "clean",
        "config_hash": "0123456789abcdef",
        "versions": Versions(harness="0.1.0", megatron_core="0.16.1", torch="2.13.0", python="3.11.7"),
        "layout": Layout(tensor=2, pipeline=1, virtual_pipeline=1, context=1, data=2),
        "consumed_samples": 8 * step,
        "consumed_tokens": 8 * 128 * step,
        "learning_rate": 3e-4,
        "next_batch_hash": "00ff00ff00ff00ff",
        "saved_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "save_seconds": 1.5,
        "cursor": {"samples": 8 * step, "channels": {"zh": [step, 0.5], "en": [1, None]}},
        "optimizer_norms": {"exp_avg": 0.25, "exp_avg_sq": 0.125},
        "last_losses": ((max(step - 1, 0), 2.5), (step, 2.375)),
        "fingerprint": FINGERPRINT,
    }
    return Manifest(**(values | changes))


def published_manifest(step: int, **changes: object) -> Manifest:
    """A manifest as it is on disk: with files."""
    return sample_manifest(step, files={"__0_0.distcp": FileRecord(bytes=3, xxh3="0" * 16)}, **changes)


def write_checkpoint(folder: Path, step: int, **changes: object) -> None:
    """A folder that is a checkpoint by its manifest, without files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, published_manifest(step, **changes))


def write_files(folder: Path, seed: int = 0) -> None:
    """Write `FILES` by plain system calls, unsynced, as another process would; `seed` changes every content."""
    for name, content in FILES.items():
        path = folder / name
        if not path.parent.is_dir():
            path.parent.mkdir()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(descriptor, bytes([seed]) + content)
        finally:
            os.close(descriptor)


def save(store: CheckpointStore, step: int, **changes: object) -> Path:
    partial = store.begin(step)
    write_files(partial, seed=step % 251)
    return store.publish(partial, sample_manifest(step, **changes))


def store_in(root: Path) -> CheckpointStore:
    run_dir = RunDir(root / "run")
    run_dir.checkpoints.mkdir(parents=True, exist_ok=True)
    return CheckpointStore(run_dir)


def entry_of(store: CheckpointStore, path: Path) -> Checkpoint:
    found = next(entry for entry in store.list() if entry.path == path)
    assert isinstance(found, Checkpoint), found
    return found
