"""What jobs of the pool look at around steps that are applied, and one that is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from harness.config.schema import Config

T = TypeVar("T")


def around_refused_step(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, look: Callable[[Any], T]
) -> list[T]:
    """What is seen of a run at the start, after a step, after one that is not finite, and after another."""
    import torch

    from harness.run.paths import RunDir
    from harness.train.start.opening import open_run
    from harness.train.steps import step
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    with open_run(config, RunDir(run_dir), "never", world) as (run, state):
        found = [look(run)]
        for is_finite in (True, False, True):
            with pytest.MonkeyPatch.context() as patch:
                if not is_finite:
                    patch.setattr(step, "mean_loss", lambda _totals: math.nan)
                result = step.take_step(run, state)
            if is_finite:
                state = state.after_step(
                    cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss
                )
            found.append(look(run))
        return found
