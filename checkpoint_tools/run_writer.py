"""A run directory with one checkpoint without optimizer state, gone on with where it was interrupted.

```
RUN/checkpoints/step_0000000.partial/   while it is written
    finished/                           records of its finished files, until it is published
    checkpoints/step_0000000/           the checkpoint
```
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from checkpoint_tools.checkpoint_writer import Weights, write_checkpoint
from harness.progress import Progress
from harness.run.checkpoints.for_export import Belongings
from harness.run.checkpoints.manifest import MANIFEST_NAME, Manifest
from harness.run.checkpoints.store import CheckpointStore
from harness.run.files import remove_tree
from harness.run.paths import RunDir

_RECORDS = "finished"


@dataclass(frozen=True, kw_only=True)
class WrittenRun:
    """The result of writing a run."""

    checkpoint: Path
    seconds: float
    """Reading and writing in this call."""
    kept_bytes: int
    """Bytes that were there from before an interruption."""


def write_run(
    run: Path,
    manifest: Manifest,
    weights: Weights,
    belongings: Belongings,
    *,
    num_workers: int,
    progress: Progress,
) -> WrittenRun:
    """Write the checkpoint of the manifest's step, unless an earlier call has published it.

    The folder belongs to this conversion alone. The manifest's files and the time it took are filled in here.

    Raises:
        OSError: From the disk, while tensors are written.
        SaveFailedError: The disk refused the rest.
    """
    store, directory, records = CheckpointStore(RunDir(run)), RunDir(run), run / _RECORDS
    started = time.perf_counter()
    path = directory.checkpoint(manifest.step)
    if path.is_dir():
        progress(kept_bytes := sum(file.stat().st_size for file in path.glob("*.distcp")))
    else:
        partial = directory.partial_checkpoint(manifest.step)
        if not partial.is_dir():
            partial = store.begin(manifest.step)
        records.mkdir(exist_ok=True)
        kept_bytes = write_checkpoint(partial, weights, records=records, num_workers=num_workers, progress=progress)
        seconds = round(time.perf_counter() - started, 3)
        path = store.publish(partial, manifest.model_copy(update={"save_seconds": seconds}), belongings=belongings)
    remove_tree(records, first=MANIFEST_NAME)
    return WrittenRun(checkpoint=path, seconds=time.perf_counter() - started, kept_bytes=kept_bytes)
