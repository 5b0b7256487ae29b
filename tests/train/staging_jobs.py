"""Jobs for the pool: the optimizer's state for a checkpoint, brought together our way and Megatron's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from harness.config.schema import Config


class Compared(NamedTuple):
    """States of parameters of one rank, as places in buffers."""

    written: list[str]
    different: list[str]
    """Those that are written, and differ in a bit from Megatron's."""
    num_bytes: int
    """Bytes of this rank that a save brings to the host's memory."""
    whole_bytes: int
    """The same of Megatron's way."""


def compare_ways(rank: int, world_size: int, init_method: str, config: Config, run_dir: Path) -> Compared:
    """After two steps: what this rank writes, and how that differs from what Megatron brings together."""
    import torch

    from harness.checkpoint.staged import staged_state
    from harness.checkpoint.state import mcore
    from harness.run.paths import RunDir
    from harness.train.start.opening import open_run
    from harness.train.steps.step import take_step
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    written, different, num_bytes, whole_bytes = [], [], 0, 0
    with open_run(config, RunDir(run_dir), "never", world) as (run, state):
        for _ in range(2):
            result = take_step(run, state)
            state = state.after_step(cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss)
        mcore.complete_parameters(run.pipeline.chunks)
        writers = run.saver._agreed_writers()
        for part in run.optimizer._parts():
            ours = staged_state(part, writers)
            theirs = mcore._state_of_zeros(part, use_gloo_comm=False, return_on_all_ranks=True)
            assert ours.keys() == theirs.keys()
            for number, buffer in enumerate(part.buffers):
                ((dtype, of_ours),), ((same_dtype, of_theirs),) = ours[number].items(), theirs[number].items()
                assert (dtype, of_ours.keys()) == (same_dtype, of_theirs.keys())
                assert of_ours.pop("numel_unpadded") == of_theirs.pop("numel_unpadded")
                for parameter, (start, end, _) in buffer.param_index_map.items():
                    for key, whole in of_theirs.items():
                        assert whole[start:end].abs().sum() > 0, "zeros would be equal whatever was brought together"
                        whole_bytes += 4 * (end - start)
                        if part.data_parallel_group.rank() not in writers[parameter, key]:
                            continue
                        written.append(f"{number} {key} {start}:{end}")
                        num_bytes += 4 * (end - start)
                        if not torch.equal(of_ours[key][start:end], whole[start:end]):
                            different.append(written[-1])
    return Compared(written, different, num_bytes, whole_bytes)
