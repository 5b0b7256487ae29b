"""What decides, together with the parts of the channels, which sample is number k and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from harness.config.schema import Config
from harness.plan.plan import PhasePlan


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers behind the order of the data. Nothing about layout, workers or restarts."""

    seed: int
    shares: Mapping[str, Fraction]
    """Exact share of every channel in use; they add up to 1. Their order numbers the channels, and nothing else."""
    seq_length: int
    vocab_size: int
    """True vocabulary: token ids are 0 … vocab_size - 1."""
    held_out_share: float
    """Share of the documents of each channel's first part that is kept for validation."""
    reset_at_document_borders: bool


def recipe_for(config: Config, phase: PhasePlan) -> Recipe:
    """The recipe of a phase of a run."""
    return Recipe(
        seed=config.run.seed,
        shares=phase.shares,
        seq_length=phase.seq_length,
        vocab_size=config.model.vocab_size,
        held_out_share=config.evaluation.held_out_share,
        reset_at_document_borders=config.data.reset_at_document_borders,
    )
