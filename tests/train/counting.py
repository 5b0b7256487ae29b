"""A short run beside the bare loop of `benchmarks.step`, counting what both ask of torch in a step."""

from __future__ import annotations

from pathlib import Path


def collectives(
    rank: int, world_size: int, init_method: str, folder: Path, parallel: dict[str, int]
) -> tuple[dict[str, int], dict[str, int], float]:
    """Collectives of a step of ours and of the bare loop, by name; largest relative difference of gradient norms."""
    import torch

    from benchmarks.step import benchmark_config, measure, turns_of
    from harness.train.world import World

    turns = turns_of(1)
    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    measure(benchmark_config(folder, turns.num_steps, parallel), folder / "run", world, turns)
    return turns.harness_calls.collectives, turns.bare_calls.collectives, turns.largest_difference
