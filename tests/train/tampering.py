"""Jobs for the pool: a launch that resumes, and finds after loading that something is not as it was saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import worlds

if TYPE_CHECKING:
    from harness.config.schema import Config


def resume_with(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, fault: str
) -> tuple[int, str]:
    """Exit code, and the text of the error if one came out of the launch."""
    from harness.checkpoint.loading import mcore
    from harness.errors import HarnessError

    plain_load = mcore.load

    def load(directory: Path, chunks: list[Any], optimizer: Any) -> None:
        plain_load(directory, chunks, optimizer)
        FAULTS[fault](rank, world_size, chunks, optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mcore, "load", load)
        try:
            return worlds.train(rank, world_size, init_method, config, run_dir, "must"), ""
        except HarnessError as error:
            return error.exit_code, str(error)
        except SystemExit as left:
            return int(str(left.code)), ""


def _zero_moments(rank: int, world_size: int, chunks: list[Any], optimizer: Any) -> None:
    for part in optimizer.chained_optimizers:
        for state in part.optimizer.state.values():
            state["exp_avg"].zero_()


def _alter_a_moment(rank: int, world_size: int, chunks: list[Any], optimizer: Any) -> None:
    # Of the parameter whose moments are the largest: 1 % of a small one does not show in the norm over all.
    states = optimizer.chained_optimizers[0].optimizer.state.values()
    max(states, key=lambda state: float(state["exp_avg_sq"].norm()))["exp_avg_sq"].mul_(1.01)


def _alter_a_replica(rank: int, world_size: int, chunks: list[Any], optimizer: Any) -> None:
    """One bit of one weight, on the last rank."""
    import torch

    if rank == world_size - 1:
        weight = chunks[0].module.decoder.final_layernorm.weight
        weight.data[3] = torch.nextafter(weight.data[3], torch.tensor(9.0))


def _alter_the_tied_embedding(rank: int, world_size: int, chunks: list[Any], optimizer: Any) -> None:
    """On the last stage, where it is the output layer."""
    if rank == world_size - 1:
        chunks[-1].module.output_layer.weight.data[5, 3] += 1


def _alter_all_weights(rank: int, world_size: int, chunks: list[Any], optimizer: Any) -> None:
    for chunk in chunks:
        for weight in chunk.module.parameters():
            weight.data.mul_(3.0)


FAULTS = {
    "none": lambda *arguments: None,
    "moments of zero": _zero_moments,
    "a moment": _alter_a_moment,
    "a replica": _alter_a_replica,
    "the tied embedding": _alter_the_tied_embedding,
    "all weights": _alter_all_weights,
}
