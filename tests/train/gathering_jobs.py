"""Jobs for the pool: the optimizer's state for a checkpoint, put together our way and Megatron's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.config.schema import Config


def compare_ways(rank: int, world_size: int, init_method: str, config: Config, run_dir: Path) -> tuple[int, list[str]]:
    """After two steps: how many tensors of parameters were compared, and which differ in a bit."""
    import torch

    from harness.checkpoint import mcore
    from harness.checkpoint.gathered import whole_state
    from harness.run.paths import RunDir
    from harness.train.start.opening import open_run
    from harness.train.steps.step import take_step
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    compared, different = 0, []
    with open_run(config, RunDir(run_dir), "never", world) as (run, state):
        for _ in range(2):
            result = take_step(run, state)
            state = state.after_step(cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss)
        mcore.complete_parameters(run.pipeline.chunks)
        for part in run.optimizer._parts():
            ours = whole_state(part)
            theirs = mcore._state_of_zeros(part, use_gloo_comm=False, return_on_all_ranks=True)
            assert ours.keys() == theirs.keys()
            for number, buffer in enumerate(part.buffers):
                ((dtype, of_ours),), ((same_dtype, of_theirs),) = ours[number].items(), theirs[number].items()
                assert (dtype, of_ours.keys()) == (same_dtype, of_theirs.keys())
                assert of_ours.pop("numel_unpadded") == of_theirs.pop("numel_unpadded")
                for start, end, _ in buffer.param_index_map.values():
                    for key, whole in of_theirs.items():
                        assert whole[start:end].abs().sum() > 0, "zeros would be equal whatever was gathered"
                        compared += 1
                        if not torch.equal(of_ours[key][start:end], whole[start:end]):
                            different.append(f"{number} {key} {start}:{end}")
    return compared, different
