"""The world of processes that a worker belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.errors import UsageError
from harness.parallel import device
from harness.parallel.environment import read_ranks


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all processes of the job, and where it computes."""

    rank: int
    size: int
    device: torch.device
    init_method: str = "env://"
    """Address at which the processes meet."""

    @staticmethod
    def from_environment() -> World:
        """Return the world that torchrun, srun or `harness train` has set in the environment.

        Raises:
            UsageError: The environment has none.
        """
        ranks = read_ranks()
        if ranks is None:
            raise UsageError(
                "this process is not a worker (RANK, WORLD_SIZE are not set). Start `harness train CONFIG`."
            )
        return World(rank=ranks.rank, size=ranks.world_size, device=device.select(ranks.local_rank))
