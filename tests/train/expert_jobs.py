"""Job for the pool: the biases of experts around steps that are applied, and one that is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.config.schema import Config


def biases_around_steps(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path
) -> list[list[list[float]]]:
    """The biases of every layer: at the start, after a step, after one that is not finite, and after another."""
    import torch

    from harness.run.paths import RunDir
    from harness.train.start.opening import open_run
    from harness.train.steps import step
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    with open_run(config, RunDir(run_dir), "never", world) as (run, state):

        def biases() -> list[list[float]]:
            return [tensor.tolist() for chunk in run.pipeline.chunks for tensor in chunk.module.buffers()]

        found = [biases()]
        for is_finite in (True, False, True):
            with pytest.MonkeyPatch.context() as patch:
                if not is_finite:
                    patch.setattr(step, "mean_loss", lambda _totals: math.nan)
                result = step.take_step(run, state)
            if is_finite:
                state = state.after_step(
                    cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss
                )
            found.append(biases())
        return found


def model_is_let_go(rank: int, world_size: int, init_method: str, config: Config, run_dir: Path) -> bool:
    """True if nothing holds the model after a step, and the end of its run."""
    import gc
    import weakref

    import torch

    from harness.run.paths import RunDir
    from harness.train.start.opening import open_run
    from harness.train.steps.step import take_step
    from harness.train.world import World

    def model_of_a_run() -> weakref.ref[object]:
        world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
        with open_run(config, RunDir(run_dir), "never", world) as (run, state):
            take_step(run, state)
            return weakref.ref(run.pipeline.chunks[0])

    model = model_of_a_run()
    gc.collect()
    return model() is None
