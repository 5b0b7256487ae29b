"""Rotary frequencies for longer sequences, as a user says it for the model or for a phase."""

from __future__ import annotations

from typing import Literal

from harness.config.section import PositiveFloat, SampleTokens, Section


class RopeScalingConfig(Section):
    """Scaling of the rotary frequencies for sequences longer than the base was chosen for."""

    type: Literal["linear", "ntk", "llama3"]
    """`linear` divides positions by `factor`. `ntk` raises the base by factor^(d/(d-2)), where d is the size of a head.
    `llama3` stretches low frequencies only."""
    factor: PositiveFloat
    """Factor by which the context grows."""
    low_freq_factor: PositiveFloat = 1.0
    """`llama3` only: wavelengths longer than `original_max_position_embeddings / low_freq_factor` are stretched
    fully."""
    high_freq_factor: PositiveFloat = 4.0
    """`llama3` only: wavelengths shorter than `original_max_position_embeddings / high_freq_factor` are not
    stretched."""
    original_max_position_embeddings: SampleTokens = 8192
    """`llama3` only: the sequence length before stretching, in tokens."""
