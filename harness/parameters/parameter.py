"""One parameter of a model: everything that somebody needs to know of it before it exists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.parameters.names import MTP_MODULES

Part = Literal["embedding", "attention", "mlp", "experts", "norm", "output", "mtp"]
End = Literal["first", "last"]
Replicas = Literal["data", "tensor", "ends", "expert data"]
"""Ranks that hold the same numbers: data- and context-parallel ones, tensor-parallel ones, both ends of a pipeline, and
those that hold the same experts."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Cuts a parameter into equal parts for the tensor-parallel ranks, or for those that share each expert."""

    dim: int
    """Dimension that is cut."""
    num_blocks: int = 1
    """Blocks along `dim` that are each cut on their own (gate and up projection in one tensor: 2)."""


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Normal distribution that the initial numbers are drawn from; without a deviation all of them are the mean."""

    mean: float = 0.0
    deviation: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A row of the table."""

    name: str
    """Name in the whole model, where norms are layers of their own and layers are counted from 0 over all stages."""
    part: Part
    """Part of the model that it is counted with."""
    shape: tuple[int, ...]
    """Shape of the whole parameter, padding included."""
    initial: Initial
    cut: Cut | None
    """None: every tensor-parallel rank holds all of it."""
    decays: bool
    """True if weight decay applies."""
    layer: int | None
    """Number of its layer, whose pipeline rank alone holds it; None: it stands at an end of the pipeline."""
    ends: tuple[End, ...] = ()
    """Ends of the pipeline that hold it; a tied embedding has a replica at each."""
    num_multiplied: int = 0
    """Weights that a token is multiplied with in the forward pass, padding left out."""
    writes_to_residual: bool = False
    """True if its product is added to the residual stream: with zeros in its place, a layer's half does nothing."""
    num_experts: int | None = None
    """Experts along the first dimension, which expert-parallel ranks share; None: it is not of experts."""
    num_chosen: int | None = None
    """Experts that compute a token; None: it is not of experts."""
    is_trained: bool = True
    """False for fp32 numbers that no gradient moves, and no optimizer knows."""
    num_true_rows: int | None = None
    """Rows of the true vocabulary, in front of zeros that never learn; None where rows do not stand for tokens."""
    stacked: tuple[int, ...] = ()
    """Rows of the projections that a matrix has one below the other, as often as it has rows for them; empty where its
    blocks say it."""

    @property
    def is_of_mtp(self) -> bool:
        """True if it is in a module that predicts further tokens."""
        return self.name.startswith(MTP_MODULES)

    @property
    def projections(self) -> tuple[int, ...]:
        """Rows of the projections that a hidden matrix (of each expert) stacks, as often as it has rows for them.

        A hidden matrix maps hidden numbers to hidden numbers. Empty for others: vectors, and tables that tokens or
        positions are looked up in, or compared with.
        """
        dim = 0 if self.num_experts is None else 1
        if self.part in ("embedding", "output") or len(self.shape) < dim + 2:
            return ()
        num_blocks = self.cut.num_blocks if self.cut is not None and self.cut.dim == dim else 1
        return self.stacked or (self.shape[dim] // num_blocks,) * num_blocks

    @property
    def is_matrix(self) -> bool:
        """True for a hidden matrix, which Muon makes orthogonal."""
        return bool(self.projections)

    @property
    def replicated_over(self) -> tuple[Replicas, ...]:
        """Kinds of ranks that hold replicas of it."""
        if self.num_experts is not None:
            assert self.cut is not None, f"ranks share {self.name}"
            return ("expert data",)
        return ("data", *(("tensor",) if self.cut is None else ()), *(("ends",) if len(self.ends) > 1 else ()))

    @property
    def size(self) -> int:
        """Numbers, padding included."""
        return math.prod(self.shape)

    @property
    def num_true(self) -> int:
        """Numbers without padding."""
        return self.size if self.num_true_rows is None else math.prod((self.num_true_rows, *self.shape[1:]))

    @property
    def num_active(self) -> int:
        """Numbers that one token meets, without padding."""
        if self.num_experts is None or self.num_chosen is None:
            return self.num_true
        return self.num_true // self.num_experts * self.num_chosen
