"""Jobs for the pool: the biases of experts around steps, and whether a model is let go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refused_step import around_refused_step

if TYPE_CHECKING:
    from harness.config.schema import Config


def biases_around_steps(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path
) -> list[list[list[float]]]:
    """The biases of every layer, as `around_refused_step` looks at them."""
    return around_refused_step(rank, world_size, init_method, config, run_dir, _biases)


def _biases(run: Any) -> list[list[float]]:
    return [tensor.tolist() for chunk in run.pipeline.chunks for tensor in chunk.module.buffers()]


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
