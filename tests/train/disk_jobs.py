"""Jobs for the pool: saving while one file after the other cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import patch

if TYPE_CHECKING:
    from harness.config.schema import Config


def refuse(*_arguments: Any, **_settings: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save_with_faults(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path
) -> dict[str, str | None]:
    """What each save said that went wrong, by the file that could not be written; the last one can."""
    import torch
    from megatron.core.dist_checkpointing.strategies import common
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    from harness.checkpoint.saving import mcore
    from harness.run.checkpoints import store
    from harness.run.paths import RunDir
    from harness.train.saving.saving import save
    from harness.train.start.opening import open_run
    from harness.train.steps.step import take_step
    from harness.train.world import World

    faults = {
        ".metadata": patch.object(FileSystemWriterAsync, "finish", refuse),
        "metadata.json": patch.object(mcore, "save_config", refuse),
        "manifest.json": patch.object(store, "write_manifest", refuse),
        "a shard of rank 1": patch.object(os, "fsync", refuse if rank == 1 else os.fsync),
        "a folder that rank 0 cannot list": patch.object(os, "listdir", refuse if rank == 0 else os.listdir),
        "nothing": patch.object(os, "getpid", os.getpid),
    }
    if rank == 0 and hasattr(common, "TorchCommonSaveStrategy"):
        faults = {"common.pt": patch.object(common.TorchCommonSaveStrategy, "save_common", refuse), **faults}
    elif hasattr(common, "TorchCommonSaveStrategy"):
        faults = {"common.pt": patch.object(os, "getpid", os.getpid), **faults}
    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    problems = {}
    with open_run(config, RunDir(run_dir), "never", world) as (run, state):
        result = take_step(run, state)
        state = state.after_step(cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss)
        for name, fault in faults.items():
            with fault:
                state = save(run, state)
            problems[name] = state.save_problem
    return problems
