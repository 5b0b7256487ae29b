"""Ranks: the place of this process in every parallel group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Place:
    """Rank within one kind of group, and the size of that group."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """True on rank 0 of the group."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """True on the last rank of the group."""
        return self.rank == self.size - 1


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place in the world and in the parallel groups: tensor, pipeline, data, context, expert."""

    world: Place
    tp: Place
    pp: Place
    dp: Place
    cp: Place
    ep: Place = Place(rank=0, size=1)
    """Among the ranks that share the experts of a layer."""
    etp: Place = Place(rank=0, size=1)
    """Among the ranks that share each expert."""

    @property
    def is_writer(self) -> bool:
        """True on the process that writes the run directory (global rank 0)."""
        return self.world.is_first

    @property
    def counts_loss(self) -> bool:
        """True on the processes that contribute to the summed loss: last stage, once per tensor-parallel group."""
        return self.pp.is_last and self.tp.is_first

    @property
    def reads_tokens(self) -> bool:
        """True on the stages that need tokens or labels: the first embeds them, the last predicts them."""
        return self.pp.is_first or self.pp.is_last
