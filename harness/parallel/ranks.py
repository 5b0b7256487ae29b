"""Who am I: this process's place in every parallel group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Place:
    """Rank within one kind of group, and the size of that group."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0 of the group."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether this is the last rank of the group."""
        return self.rank == self.size - 1


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place in the world and in the tensor, pipeline, data and context parallel groups."""

    world: Place
    tp: Place
    pp: Place
    dp: Place
    cp: Place

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the run directory (global rank 0)."""
        return self.world.is_first

    @property
    def counts_loss(self) -> bool:
        """Whether this process contributes to the summed loss: last stage, once per tensor-parallel group."""
        return self.pp.is_last and self.tp.is_first

    @property
    def reads_tokens(self) -> bool:
        """Whether this process's stage needs tokens or labels (the first embeds them, the last predicts them)."""
        return self.pp.is_first or self.pp.is_last
