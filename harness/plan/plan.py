"""What follows from a configuration by arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from harness.plan.layouts import Layout


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """One phase, in steps. Steps are 1-based; the phase covers `first_step … first_step + train_steps - 1`."""

    name: str
    first_step: int
    train_steps: int
    seq_length: int
    global_batch_size: int
    num_microbatches: int
    """Micro-batches that each data-parallel rank computes in a step."""
    shares: dict[str, Fraction]
    """Exact share of every channel; they add up to 1."""
    flops_per_token: int
    """Model FLOPs of forward and backward per token, causal attention counted once (see `harness.plan.flops`)."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step trains on."""
        return self.global_batch_size * self.seq_length


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything derived from a `Config` and a world size. Pure arithmetic, the same on every rank."""

    layout: Layout
    layers_per_stage: tuple[tuple[int, ...], ...]
    """Layers by [virtual chunk][pipeline rank]: model chunks in the order in which a token passes them."""
    padded_vocab_size: int
    phases: tuple[PhasePlan, ...]
    train_steps: int
    num_parameters: int
    """Parameters of the model with its true vocabulary."""
