"""Job for the pool: the state of a run around steps that are applied, and one that is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.config.schema import Config


def states_around_steps(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path
) -> list[tuple[int, ...]]:
    """Checksums of weights and optimizer state: after a step, after one that is not finite, and after another."""
    import torch

    from harness.run.paths import RunDir
    from harness.train.saving.snapshots import live
    from harness.train.start.opening import open_run
    from harness.train.steps import step
    from harness.train.steps.restored import checksum
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    found = []
    with open_run(config, RunDir(run_dir), "never", world) as (run, state):
        for is_finite in (True, False, True):
            with pytest.MonkeyPatch.context() as patch:
                if not is_finite:
                    patch.setattr(step, "mean_loss", lambda _totals: math.nan)
                result = step.take_step(run, state)
            if is_finite:
                state = state.after_step(
                    cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss
                )
            found.append(tuple(int(checksum(tensor)) for tensor in live(run)))
    return found
