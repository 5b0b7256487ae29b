"""How a model is cut over ranks: the layout, its rules, and the nearest legal values where one is broken."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the process grid. `virtual_pipeline` is the number of model chunks per pipeline rank (1: not interleaved)."""

    tensor: int
    pipeline: int
    virtual_pipeline: int
    context: int
    data: int

    @property
    def world_size(self) -> int:
        """Ranks that the layout needs."""
        return self.tensor * self.pipeline * self.context * self.data
